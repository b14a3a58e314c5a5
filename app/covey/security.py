"""API keys from the configuration: plain texts and digests to what the gateway compares with."""

from __future__ import annotations

from collections.abc import Mapping

from covey.config import DIGEST_PREFIX
from covey.errors import ConfigurationError
from covey_gateway.core.keys import KeyRing, key_digest


def key_ring(keys: Mapping[str, str]) -> KeyRing:
    """`keys`: owner -> key, or `sha256:` and its digest. Raises ConfigurationError."""
    try:
        return KeyRing(key_digests(keys))
    except ValueError as error:
        raise ConfigurationError(str(error), "see docs/configuration.md, Open to the network") from None


def key_digests(keys: Mapping[str, str]) -> dict[str, str]:
    """Digest -> owner."""
    return {_digest(key): owner for owner, key in keys.items()}


def _digest(key: str) -> str:
    return key.removeprefix(DIGEST_PREFIX) if key.startswith(DIGEST_PREFIX) else key_digest(key)
