"""Writes by turns of the loop: at once for one connection, together for several, in order, and none lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from covey_mesh.io.turn_writer import WRITES_A_FLUSH, Turn, TurnWriter


class Wire:
    """A transport that keeps what it was told, in the order of all wires."""

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        self.name, self.log, self.closing, self.buffered = name, log, False, 0

    def write(self, data: bytes) -> None:
        assert not self.closing
        self.log.append((self.name, data.decode()))

    def writelines(self, pieces: list[bytes]) -> None:
        self.write(b"".join(pieces))

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True
        self.log.append((self.name, "closed"))

    def abort(self) -> None:
        self.closing = True
        self.log.append((self.name, "aborted"))

    def write_eof(self) -> None:
        self.log.append((self.name, "eof"))

    def get_write_buffer_size(self) -> int:
        return self.buffered


class Bench:
    """Some connections of one turn, and the loop's end of it."""

    def __init__(self, count: int = 3) -> None:
        self.log: list[tuple[str, str]] = []
        self.due: list[Callable[[], None]] = []
        self.turn = Turn(self.due.append)
        self.wires = [Wire("abcdefghijklmnopqrstuvwxyz"[number], self.log) for number in range(count)]
        wires: list[Any] = list(self.wires)
        self.writers = [TurnWriter(wire, self.turn) for wire in wires]

    def end_turn(self) -> None:
        due = self.due[:]
        self.due.clear()
        assert len(due) <= 1, "one callback a turn"
        for callback in due:
            callback()

    def busy(self) -> None:
        """A turn that wrote to two connections."""
        self.writers[0].write(b"-")
        self.writers[1].write(b"-")
        self.end_turn()
        self.log.clear()


def test_a_single_connection_writes_at_once() -> None:
    bench = Bench()
    for _ in range(3):
        bench.writers[0].write(b"1")
        bench.writers[0].write(b"2")
        assert bench.log[-2:] == [("a", "1"), ("a", "2")]
        bench.end_turn()


def test_after_a_busy_turn_writes_wait_for_the_end() -> None:
    bench = Bench()
    bench.busy()
    bench.writers[0].write(b"1")
    bench.writers[1].write(b"2")
    bench.writers[0].write(b"3")
    assert bench.log == []
    bench.end_turn()
    assert bench.log == [("a", "13"), ("b", "2")]


def test_a_quiet_turn_ends_it() -> None:
    bench = Bench()
    bench.busy()
    bench.writers[0].write(b"1")
    bench.end_turn()
    bench.writers[0].write(b"2")
    assert bench.log == [("a", "1"), ("a", "2")]


def test_a_turn_without_writes_schedules_nothing() -> None:
    bench = Bench()
    bench.busy()
    bench.end_turn()
    assert bench.due == []


def test_many_do_not_wait_for_the_end() -> None:
    bench = Bench(WRITES_A_FLUSH + 1)
    bench.busy()
    for writer in bench.writers:
        writer.write(b"1")
    assert len(bench.log) == WRITES_A_FLUSH
    bench.end_turn()
    assert len(bench.log) == WRITES_A_FLUSH + 1


def test_pieces_stay_in_order_across_a_flush() -> None:
    bench = Bench(WRITES_A_FLUSH)
    bench.busy()
    for writer in bench.writers:
        writer.writelines([b"1", b"2"])
    bench.writers[0].write(b"3")
    bench.end_turn()
    assert [text for name, text in bench.log if name == "a"] == ["12", "3"]


@pytest.mark.parametrize("end", ["close", "write_eof"])
def test_what_waits_leaves_before_the_end(end: str) -> None:
    bench = Bench()
    bench.busy()
    bench.writers[0].write(b"1")
    getattr(bench.writers[0], end)()
    assert bench.log == [("a", "1"), ("a", "closed" if end == "close" else "eof")]
    bench.end_turn()
    assert len(bench.log) == 2


def test_an_abort_drops_what_waits() -> None:
    bench = Bench()
    bench.busy()
    bench.writers[0].write(b"1")
    bench.writers[0].abort()
    bench.end_turn()
    assert bench.log == [("a", "aborted")]


def test_nothing_is_written_to_a_lost_connection() -> None:
    bench = Bench()
    bench.busy()
    bench.writers[0].write(b"1")
    bench.wires[0].closing = True
    bench.end_turn()
    assert bench.log == []


def test_what_waits_counts_as_buffered() -> None:
    bench = Bench()
    bench.busy()
    bench.wires[0].buffered = 10
    bench.writers[0].write(b"123")
    assert bench.writers[0].get_write_buffer_size() == 13
    bench.end_turn()
    assert bench.writers[0].get_write_buffer_size() == 10


def test_a_write_from_a_flush_is_not_lost() -> None:
    """A transport may call its protocol back, which writes again."""
    bench = Bench()
    bench.busy()
    bench.wires[0].write = lambda data: bench.writers[1].write(b"again")  # type: ignore[method-assign]
    bench.writers[0].write(b"1")
    bench.end_turn()
    bench.end_turn()
    assert bench.log == [("b", "again")]


def test_a_bug_costs_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.busy()
    bench.wires[0].write = lambda data: 1 / 0  # type: ignore[method-assign, assignment, return-value]
    bench.writers[0].write(b"1")
    bench.writers[1].write(b"2")
    bench.end_turn()
    assert bench.log == [("a", "aborted"), ("b", "2")]
    assert "bug in writing" in caplog.text
