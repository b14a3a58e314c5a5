"""The join token: one URL-safe string that tells a new machine where to ask, whom to trust, and proves it was invited.

Layout after "covey1-", base64url without padding: pool id (16 bytes), token id (8), secret (16), number of addresses
(1), each address (1 byte length, ASCII), checksum (the first 4 bytes of SHA-256 over all before). The checksum tells
a mistyped token from a wrong one; it protects nothing. Not here: making random numbers, using the token (io).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, field

from covey_mesh.core.names import PoolId

PREFIX = "covey1-"
TOKEN_ID_BYTES = 8
SECRET_BYTES = 16
ADDRESSES_MAX = 6
ADDRESS_CHARS_MAX = 80
TOKEN_CHARS_MAX = 1024
_CHECKSUM_BYTES = 4
_POOL_ID_BYTES = 16


class TokenError(ValueError):
    """Not a usable token; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """`addresses` are HOST:PORT of the keeper's enrolment port, best first; hints only, anyone may answer there."""

    pool_id: PoolId
    token_id: str
    secret: bytes = field(repr=False)
    addresses: tuple[str, ...]

    def encode(self) -> str:
        """The string for people and scripts. Raises TokenError when it cannot hold the addresses."""
        addresses = [address.encode("ascii", "replace") for address in self.addresses]
        if not 0 < len(addresses) <= ADDRESSES_MAX or any(len(a) > ADDRESS_CHARS_MAX for a in addresses):
            raise TokenError(f"a token holds 1 to {ADDRESSES_MAX} addresses of at most {ADDRESS_CHARS_MAX} characters")
        content = bytes.fromhex(self.pool_id) + bytes.fromhex(self.token_id) + self.secret
        content += bytes([len(addresses)]) + b"".join(bytes([len(a)]) + a for a in addresses)
        return PREFIX + base64.urlsafe_b64encode(content + _checksum(content)).rstrip(b"=").decode()


def decode_token(text: str) -> Token:
    """Raises TokenError."""
    text = text.strip()
    if not text.startswith(PREFIX):
        raise TokenError(f"this is no join token: one starts with {PREFIX}; get one with `covey invite` on a keeper")
    encoded = text[len(PREFIX) :]
    mistyped = TokenError("the token is incomplete or mistyped: copy all of it, on one line")
    if len(text) > TOKEN_CHARS_MAX:
        raise mistyped
    try:
        raw = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise mistyped from error
    content, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
    if checksum != _checksum(content):
        raise mistyped
    try:
        return _parse(content)
    except (IndexError, UnicodeDecodeError) as error:
        raise mistyped from error


def _parse(content: bytes) -> Token:
    """Raises IndexError, UnicodeDecodeError, TokenError."""
    fixed_bytes = _POOL_ID_BYTES + TOKEN_ID_BYTES + SECRET_BYTES
    pool_id, token_id = content[:_POOL_ID_BYTES], content[_POOL_ID_BYTES : _POOL_ID_BYTES + TOKEN_ID_BYTES]
    secret, count, position = content[fixed_bytes - SECRET_BYTES : fixed_bytes], content[fixed_bytes], fixed_bytes + 1
    addresses = []
    for _ in range(count):
        end = position + 1 + content[position]
        if end > len(content):
            raise IndexError(end)
        addresses.append(content[position + 1 : end].decode("ascii"))
        position = end
    if position != len(content) or not 0 < count <= ADDRESSES_MAX:
        raise TokenError("the token was made by another version of covey: make a new one with `covey invite`")
    return Token(PoolId(pool_id.hex()), token_id.hex(), secret, tuple(addresses))


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:_CHECKSUM_BYTES]
