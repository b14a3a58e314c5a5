"""Identifiers. Never a name that somebody asked for: each is derived from a public key.

Not here: display names and addresses, which anyone may claim (facts.py).
"""

from __future__ import annotations

from typing import NewType

NodeId = NewType("NodeId", str)
"""32 lower-case hex digits: the first 128 bits of SHA-256 over the node's public key (DER SubjectPublicKeyInfo)."""

PoolId = NewType("PoolId", str)
"""Likewise, over the public key of the pool's certificate authority."""

ID_LENGTH = 32


def is_id(text: str) -> bool:
    """True for a well-formed node or pool id."""
    return len(text) == ID_LENGTH and all(c in "0123456789abcdef" for c in text)


def short(identifier: str) -> str:
    """For people: enough of an id to tell machines of one office apart."""
    return identifier[:8]


def is_pool_name(text: str) -> bool:
    """True for 1 to 32 of a-z, 0-9 and inner hyphens: the name is also the pool's `<name>.local`."""
    return (
        0 < len(text) <= 32
        and all(c in "abcdefghijklmnopqrstuvwxyz0123456789-" for c in text)
        and not text.startswith("-")
        and not text.endswith("-")
    )
