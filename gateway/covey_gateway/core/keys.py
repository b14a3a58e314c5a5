"""API keys: who may use this gateway. The configuration holds SHA-256 digests, never keys.

Keys are random (issued by `covey`), so a plain digest is enough: there is nothing to guess with a dictionary.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

KEY_BYTES_MAX = 512
DIGEST_LENGTH = 64


def key_digest(key: str) -> str:
    """What the configuration stores: SHA-256 in lower-case hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def bearer_key(authorization: str, x_api_key: str = "") -> str:
    """The key in `Authorization: Bearer KEY`, or in Anthropic's `x-api-key`; "" if there is none."""
    scheme, _, key = authorization.partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return x_api_key.strip()


class KeyRing:
    """Digest -> user name. Immutable; replaced as a whole when the configuration changes."""

    def __init__(self, users_by_digest: Mapping[str, str]) -> None:
        for digest in users_by_digest:
            if len(digest) != DIGEST_LENGTH or any(c not in "0123456789abcdef" for c in digest):
                raise ValueError("an API key digest must be 64 lower-case hex digits (SHA-256 of the key)")
        self._users = {digest.encode(): user for digest, user in users_by_digest.items()}

    def __len__(self) -> int:
        return len(self._users)

    def user_of(self, key: str) -> str | None:
        """The key's user, or None. Every digest is compared in constant time, also after a match."""
        if not key or len(key) > KEY_BYTES_MAX or not self._users:
            return None
        given = key_digest(key).encode()
        found: str | None = None
        for digest, user in self._users.items():
            if hmac.compare_digest(digest, given):
                found = user
        return found
