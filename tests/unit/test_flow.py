"""Credit: what may be sent, what may be granted again."""

from __future__ import annotations

import random

import pytest

from covey_mesh.core.flow import ReceiveWindow, SendWindow
from covey_mesh.core.limits import STREAM_WINDOW_BYTES


@pytest.mark.parametrize(("credit", "wanted", "allowed"), [(10, 4, 4), (10, 10, 10), (10, 11, 10), (0, 5, 0)])
def test_take(credit: int, wanted: int, allowed: int) -> None:
    window = SendWindow(credit)
    assert window.take(wanted) == allowed
    assert window.credit_bytes == credit - allowed


@pytest.mark.parametrize(("wanted", "taken"), [(9, True), (10, True), (11, False)])
def test_take_all_or_nothing(wanted: int, taken: bool) -> None:
    window = SendWindow(10)
    assert window.take_all(wanted) is taken
    assert window.credit_bytes == 10 - wanted * taken


def test_credit_never_exceeds_a_window() -> None:
    window = SendWindow(STREAM_WINDOW_BYTES)
    window.grant(2**32 - 1)
    assert window.credit_bytes == STREAM_WINDOW_BYTES


@pytest.mark.parametrize(
    ("received", "paused", "granted"),
    [(0, False, 0), (49, False, 0), (50, False, 50), (100, False, 100), (100, True, 0)],
)
def test_grants(received: int, paused: bool, granted: int) -> None:
    window = ReceiveWindow(100, paused, 100)
    assert window.receive(received)
    assert window.to_grant() == granted
    assert window.to_grant() == 0, "nothing twice"


def test_more_than_granted_is_noticed() -> None:
    window = ReceiveWindow(100, False, 100)
    assert window.receive(100)
    assert not window.receive(1)


@pytest.mark.parametrize("seed", range(10))
def test_the_two_sides_agree(seed: int) -> None:
    """Random sizes, pauses and delays of grants: never too much, and never stuck while the reader reads."""
    generator = random.Random(seed)
    sender, reader = SendWindow(STREAM_WINDOW_BYTES), ReceiveWindow()
    on_the_way: list[int] = []
    moved_bytes = 0
    for _ in range(2000):
        reader.paused = generator.random() < 0.3
        taken = sender.take(generator.randrange(1, 100_000))
        assert reader.receive(taken)
        moved_bytes += taken
        on_the_way.append(reader.to_grant())
        if generator.random() < 0.5:
            for granted in on_the_way:
                sender.grant(granted)
            on_the_way.clear()
    assert moved_bytes > 20 * STREAM_WINDOW_BYTES
