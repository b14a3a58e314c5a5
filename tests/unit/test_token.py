"""The join token: round trip, and each way in which a person can spoil one."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey_mesh.core.names import PoolId
from covey_mesh.core.token import ADDRESSES_MAX, PREFIX, Token, TokenError, decode_token

TOKEN = Token(PoolId("ab" * 16), "cd" * 8, bytes(range(16)), ("192.168.1.7:7946", "[fe80::1]:7946"))
_ADDRESS = st.text("abcdef0123456789.:[]-", min_size=1, max_size=80)


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
    st.lists(_ADDRESS, min_size=1, max_size=ADDRESSES_MAX),
)
def test_round_trip(pool_id: bytes, token_id: bytes, secret: bytes, addresses: list[str]) -> None:
    token = Token(PoolId(pool_id.hex()), token_id.hex(), secret, tuple(addresses))
    text = token.encode()
    assert decode_token(f" {text}\n") == token
    assert all(c.isalnum() or c in "-_" for c in text), "fits a URL and a shell without quoting"


@pytest.mark.parametrize("position", range(len(PREFIX), len(TOKEN.encode())))
def test_one_wrong_character_is_noticed(position: int) -> None:
    text = TOKEN.encode()
    wrong = "A" if text[position] != "A" else "B"
    try:
        decoded = decode_token(text[:position] + wrong + text[position + 1 :])
    except TokenError as error:
        assert "mistyped" in str(error)  # noqa: PT017
    else:
        assert position == len(text) - 1, "only the unused bits of the last character may differ"
        assert decoded == TOKEN


@pytest.mark.parametrize("text", ["", "sk-123", "https://example.org", "covey2-AAAA"])
def test_something_else_is_told_apart(text: str) -> None:
    with pytest.raises(TokenError, match="covey invite"):
        decode_token(text)


@pytest.mark.parametrize("text", [PREFIX, PREFIX + "A", PREFIX + "A" * 5000, PREFIX + "ü", TOKEN.encode()[:-5]])
def test_incomplete_tokens(text: str) -> None:
    with pytest.raises(TokenError, match="mistyped"):
        decode_token(text)


@given(st.binary(max_size=200))
def test_any_bytes_either_decode_or_say_why(content: bytes) -> None:
    whole = content + hashlib.sha256(content).digest()[:4]
    text = PREFIX + base64.urlsafe_b64encode(whole).rstrip(b"=").decode()
    try:
        token = decode_token(text)
    except TokenError:
        return
    assert token.encode() == text


def test_the_secret_is_not_shown() -> None:
    assert TOKEN.secret.hex() not in repr(TOKEN)
    assert repr(TOKEN.secret) not in repr(TOKEN)


@pytest.mark.parametrize("addresses", [(), ("x:1",) * (ADDRESSES_MAX + 1), ("x" * 80 + ":1",)])
def test_bounds_of_addresses(addresses: tuple[str, ...]) -> None:
    with pytest.raises(TokenError, match="a token holds"):
        Token(TOKEN.pool_id, TOKEN.token_id, TOKEN.secret, addresses).encode()
