"""A request's body, in whatever pieces it comes."""

from __future__ import annotations

import random
import sys

import pytest

from covey_gateway.io.http_request import SMALL_PIECE_BYTES, HttpRequest


@pytest.mark.parametrize("seed", range(5))
def test_any_pieces_make_the_same_body(seed: int) -> None:
    print(f"seed {seed}")
    draw = random.Random(seed)
    sizes = (1, 2, SMALL_PIECE_BYTES - 1, SMALL_PIECE_BYTES, 5 * SMALL_PIECE_BYTES)
    pieces = [draw.randbytes(draw.choice(sizes)) for _ in range(50)]
    request = HttpRequest(0.0)
    for piece in pieces:
        request.add_body(piece)
    body = request.take_body()
    assert type(body) is bytes
    assert body == b"".join(pieces)
    assert request.take_body() == b""


def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_size_needs() -> None:
    request = HttpRequest(0.0)
    for number in range(100_000):
        request.add_body(b"%02d" % (number % 100))
    held = sum(sys.getsizeof(piece) for piece in request.body) + sys.getsizeof(request.body)
    assert held < 2 * 200_000
