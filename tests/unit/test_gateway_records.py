"""The book of the last requests; records of straight ones are made when somebody looks."""

from __future__ import annotations

from covey_gateway.core.records import AttemptRecord, RecordBook, RequestRecord
from covey_mesh.core.asking import Decision, Outcome
from covey_mesh.core.names import NodeId

A = NodeId("a" * 32)
DECISION = Decision("one", 1, "m", 0.0, "leader", A, Outcome.ASSIGNED, "predicted", chosen=A)


def _straight(book: RecordBook, request_id: str, decision: Decision | None = DECISION) -> None:
    book.add_straight(request_id, "/v1/completions", "m", 12, 16, 1000.5, A, decision, 0.25, 0.5)


def test_a_straight_request_reads_as_one_that_was_recorded_on_its_way() -> None:
    book = RecordBook()
    _straight(book, "one")
    expected = RequestRecord("one", "/v1/completions", "m", False, 12, 16, 1000.5)
    expected.decided(DECISION)
    expected.opened(1, A, 0.0)
    expected.ended(1, "completed", 0.5)
    expected.attempts[0].first_byte_s = 0.25
    expected.status, expected.node_id, expected.first_byte_s, expected.total_s = 200, A, 0.25, 0.5
    assert book.get("one") == expected
    assert book.get("one") is book.get("one")
    assert isinstance(expected.attempts[0], AttemptRecord)


def test_without_a_decision() -> None:
    book = RecordBook()
    _straight(book, "one", None)
    (record,) = book
    assert record.decisions == []


def test_the_oldest_go_first_whatever_they_are() -> None:
    book = RecordBook(kept=3)
    for number in range(4):
        book.add(RequestRecord(f"long-{number}", "/v1/completions", "m", True, 1, 1, 0.0))
        _straight(book, f"straight-{number}")
    assert len(book) == 3
    assert [record.request_id for record in book] == ["straight-3", "long-3", "straight-2"]
    assert [record.request_id for record in book] == ["straight-3", "long-3", "straight-2"], "looking changes nothing"
    assert book.get("long-2") is None
    assert len(book) == 3
