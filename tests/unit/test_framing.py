"""Messages behind their lengths: whole, in pieces, many at once, and what no build sends."""

from __future__ import annotations

import random

import pytest

from covey_mesh.core.framing import LENGTH_BYTES, FrameReader, FrameTooLongError, frame

MAX = 1000


@pytest.mark.parametrize(
    ("pieces", "messages"),
    [
        ([], []),
        ([b"\0\0\0\2ab"], [b"ab"]),
        ([b"\0\0\0\0"], [b""]),
        ([b"\0\0\0\0\0\0\0\1x\0\0\0\0"], [b"", b"x", b""]),
        ([b"\0\0\0\2ab\0\0\0\1c"], [b"ab", b"c"]),
        ([b"\0\0", b"\0\2", b"a", b"b"], [b"ab"]),
        ([b"\0\0\0\2ab\0\0\0", b"\1", b"c"], [b"ab", b"c"]),
        ([b"\0\0\0\2a", b"b\0\0\0\2c"], [b"ab"]),
        ([frame(b"y" * MAX)], [b"y" * MAX]),
    ],
)
def test_what_arrives_is_cut_at_the_lengths(pieces: list[bytes], messages: list[bytes]) -> None:
    reader = FrameReader(MAX)
    assert [message for piece in pieces for message in reader.feed(piece)] == messages


def test_any_cut_of_the_stream_gives_the_same_messages() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(200):
        messages = [dice.randbytes(dice.choice((0, 1, 3, 4, 50, MAX))) for _ in range(dice.randrange(8))]
        stream, reader, found = b"".join(map(frame, messages)), FrameReader(MAX), []
        while stream:
            length = dice.choice((1, 2, 3, 5, 100, 5000))
            found += reader.feed(stream[:length])
            stream = stream[length:]
            assert reader.kept_bytes < MAX + LENGTH_BYTES
        assert found == messages
        assert reader.kept_bytes == 0


@pytest.mark.parametrize(
    "pieces",
    [
        [b"\xff\xff\xff\xff"],
        [(MAX + 1).to_bytes(4)],
        [b"\0\0\0\1x", b"\0\0", b"\4\0"],
        [b"GET / HTTP/1.1\r\n\r\n"],
        [b"\x16\x03\x01\x02\x00\x01\x00"],
    ],
)
def test_what_announces_too_much_is_refused_before_it_is_kept(pieces: list[bytes]) -> None:
    reader = FrameReader(MAX)
    for piece in pieces[:-1]:
        reader.feed(piece)
    with pytest.raises(FrameTooLongError, match=f"at most {MAX}"):
        reader.feed(pieces[-1])
    assert reader.kept_bytes < LENGTH_BYTES
