"""Server-sent events come out whole, however the bytes were cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from covey_gateway.core import events
from covey_gateway.core.events import EventSplitter, EventTooLargeError


@given(
    st.lists(st.binary(min_size=1).filter(lambda b: not set(b) & {10, 13, 32})),
    st.lists(st.integers(1, 7), min_size=1),
    st.sampled_from([b"\n\n", b"\r\n\r\n"]),
)
def test_any_cut_gives_the_same_events(data: list[bytes], cuts: list[int], separator: bytes) -> None:
    stream = b"".join(b"data: " + d + separator for d in data)
    splitter, found, position, turn = EventSplitter(), [], 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        found += splitter.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert found == data


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b": comment\n\n", []),
        (b"event: x\ndata: 1\n\n", [b"1"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:tight\n\n", [b"tight"]),
        (b"data: unfinished", []),
    ],
)
def test_table(stream: bytes, expected: list[bytes]) -> None:
    assert EventSplitter().feed(stream) == expected


def test_an_endless_event_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "EVENT_BYTES_MAX", 10)
    with pytest.raises(EventTooLargeError):
        EventSplitter().feed(b"data: 12345678901")
