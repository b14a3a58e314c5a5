"""When an advertisement is sent again, and which announcements become hints."""

from __future__ import annotations

from dataclasses import replace

from covey_mesh.core.advertisement import Advertisement
from covey_mesh.core.hints import (
    CAPACITY_UPDATE_INTERVAL_S,
    HINTS_BURST,
    HINTS_PER_S,
    OTHER_UPDATE_INTERVAL_S,
    REMEMBERED_MAX,
    SAME_INSTANCE_INTERVAL_S,
    Hint,
    HintBook,
    UpdateGate,
)
from covey_mesh.core.names import NodeId, PoolId

GIB = 1024**3
ADVERTISEMENT = Advertisement(
    PoolId("a" * 32), NodeId("1" * 32), "desk", "0.1", 7, 4711, total_bytes=24 * GIB, free_bytes=24 * GIB
)


def hint(number: int = 1, *addresses: str, incarnation: int = 7) -> Hint:
    claimed = NodeId(f"{number:032x}")
    return Hint(
        addresses or (f"10.0.0.{number}:4711",),
        claimed,
        replace(ADVERTISEMENT, node_id=claimed, incarnation=incarnation),
    )


def test_the_first_advertisement_goes_out_at_once() -> None:
    assert UpdateGate().wait_s(ADVERTISEMENT, 100.0) == 0.0


def test_what_others_would_read_the_same_is_not_sent() -> None:
    gate = UpdateGate()
    gate.sent(ADVERTISEMENT, 100.0)
    assert gate.wait_s(replace(ADVERTISEMENT, free_bytes=24 * GIB), 500.0) is None
    assert gate.wait_s(replace(ADVERTISEMENT, total_bytes=24 * GIB + 5), 500.0) is None
    assert gate.wait_s(replace(ADVERTISEMENT, free_bytes=23 * GIB), 500.0) is None


def test_capacity_is_sent_seldom_and_everything_else_soon() -> None:
    gate = UpdateGate()
    gate.sent(ADVERTISEMENT, 100.0)
    less = replace(ADVERTISEMENT, free_bytes=GIB)
    assert gate.wait_s(less, 101.0) == CAPACITY_UPDATE_INTERVAL_S - 1.0
    assert gate.wait_s(less, 100.0 + CAPACITY_UPDATE_INTERVAL_S) == 0.0
    assert gate.wait_s(replace(less, http_port=8080), 100.25) == OTHER_UPDATE_INTERVAL_S - 0.25
    gate.sent(less, 110.0)
    assert gate.wait_s(less, 999.0) is None


def test_a_new_announcement_is_told_once() -> None:
    book = HintBook()
    book.heard("one", hint())
    assert book.due(1.0) == [hint()]
    book.heard("one", hint())
    assert book.due(60.0) == []


def test_capacity_alone_is_no_reason_to_dial_again() -> None:
    book = HintBook()
    book.heard("one", hint())
    book.due(1.0)
    fuller = replace(hint(), advertisement=replace(hint().advertisement, free_bytes=0))
    book.heard("one", fuller)
    assert book.due(60.0) == []
    assert book.known() == (fuller,)


def test_a_changed_place_is_told_after_the_interval() -> None:
    book = HintBook()
    book.heard("one", hint())
    book.due(1.0)
    moved = hint(1, "10.0.0.99:4711")
    book.heard("one", moved)
    assert book.due(1.1) == []
    assert book.pending
    assert book.due(1.0 + SAME_INSTANCE_INTERVAL_S) == [moved]
    assert not book.pending


def test_a_restarted_process_is_a_new_place() -> None:
    book = HintBook()
    book.heard("one", hint())
    book.due(1.0)
    book.heard("one", hint(incarnation=8))
    assert book.due(10.0) == [hint(incarnation=8)]


def test_a_held_back_hint_is_not_forgotten_by_hearing_it_again() -> None:
    book = HintBook()
    book.heard("one", hint())
    book.due(1.0)
    moved = hint(1, "10.0.0.99:4711")
    book.heard("one", moved)
    book.heard("one", moved)
    assert book.due(5.0) == [moved]


def test_a_stolen_id_stands_beside_the_owner() -> None:
    book = HintBook()
    book.heard("owner", hint())
    book.heard("thief", hint(1, "10.0.0.66:4711"))
    assert len(book.due(1.0)) == 2
    assert len(book.known()) == 2


def test_a_goodbye_forgets_and_a_return_is_new() -> None:
    book = HintBook()
    book.heard("one", hint())
    book.due(1.0)
    book.gone("one")
    book.gone("never heard")
    assert book.known() == ()
    book.heard("one", hint())
    assert book.due(2.0) == [hint()]


def test_a_flood_is_thinned_and_a_newcomer_goes_first() -> None:
    book = HintBook()
    told = 0
    for number in range(3000):
        book.heard(f"flood-{number}", hint(number))
        told += len(book.due(1.0))
    assert told == HINTS_BURST
    assert len(book.known()) == REMEMBERED_MAX
    newcomer = hint(0xFFFF, "10.0.0.5:4711")
    book.heard("newcomer", newcomer)
    assert book.due(1.0) == []
    assert book.due(1.0 + 1.01 / HINTS_PER_S) == [newcomer]
    assert len(book.due(2.0 + HINTS_BURST / HINTS_PER_S)) == HINTS_BURST, "the burst is earned back, and no more"


def test_a_clock_that_goes_back_earns_nothing() -> None:
    book = HintBook()
    for number in range(HINTS_BURST):
        book.heard(str(number), hint(number))
    assert len(book.due(100.0)) == HINTS_BURST
    book.heard("late", hint(5000))
    assert book.due(50.0) == []
