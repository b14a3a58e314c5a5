"""multipart/form-data in pieces of any size, and malformed."""

from __future__ import annotations

import random

import pytest

from covey_gateway.core.batches.multipart import MultipartError, MultipartReader, Part, PartEnd, boundary_of

FORM = b"\r\n".join(
    (
        b"preamble",
        b"--XX",
        b'Content-Disposition: form-data; name="purpose"',
        b"",
        b"batch",
        b"--XX",
        b'content-disposition: form-data; name="file"; filename="a \\"b\\".jsonl"',
        b"Content-Type: x/y",
        b"",
        b"one\r\n--X\r\n\r\n--XY\r\nbytes\x00\xff",
        b"--XX",
        b"Content-Disposition: form-data; name=empty",
        b"",
        b"",
        b"--XX--",
        b"epilogue",
    )
)
EXPECTED = [
    ("purpose", None, b"batch"),
    ("file", 'a "b".jsonl', b"one\r\n--X\r\n\r\n--XY\r\nbytes\x00\xff"),
    ("empty", None, b""),
]


def read(content: bytes, sizes: list[int]) -> tuple[list[tuple[str, str | None, bytes]], bool]:
    reader, found, at, turn = MultipartReader(b"XX"), [], 0, 0
    while at < len(content):
        size = sizes[turn % len(sizes)]
        for event in reader.feed(content[at : at + size]):
            if isinstance(event, Part):
                found.append([event.name, event.filename, b"", False])
            elif isinstance(event, PartEnd):
                found[-1][3] = True
            else:
                assert event
                found[-1][2] += event
        at, turn = at + size, turn + 1
    assert all(ended for *_, ended in found)
    return [(name, filename, content) for name, filename, content, _ in found], reader.complete


def test_in_pieces_of_any_size() -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    dice = random.Random(seed)
    for sizes in [[1], [2], [3], [7], [10_000], *([dice.randint(1, 40) for _ in range(50)] for _ in range(50))]:
        assert read(FORM, sizes) == (EXPECTED, True)


def test_nothing_large_is_held() -> None:
    reader = MultipartReader(b"XX")
    reader.feed(FORM[: FORM.index(b"one")])
    for _ in range(100):
        given = b"".join(event for event in reader.feed(b"y" * 10_000) if isinstance(event, bytes))
        assert len(given) >= 9_000


def test_an_unfinished_form_is_not_complete() -> None:
    reader = MultipartReader(b"XX")
    reader.feed(FORM[:-14])
    assert not reader.complete


@pytest.mark.parametrize(
    "content",
    [
        b"--XX\r\n\r\nno headers\r\n--XX--",
        b"--XX\r\nContent-Disposition: attachment; name=a\r\n\r\n",
        b"--XX\r\nContent-Disposition: form-data\r\n\r\n",
        b"--XXjunk",
        b"--XX\r\n" + b"x" * 10_000,
        b"--XX\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 40,
    ],
)
def test_malformed_forms(content: bytes) -> None:
    with pytest.raises(MultipartError):
        MultipartReader(b"XX").feed(content)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
        ("multipart/form-data", None),
        ("application/json", None),
        ("multipart/form-data; boundary=" + "x" * 71, None),
        ("", None),
    ],
)
def test_the_boundary(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary
