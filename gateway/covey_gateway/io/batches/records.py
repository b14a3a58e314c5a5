"""Batches on disk: records, the places of their lines, and the answers. Runs on the database's thread.

An answer and the count of answers are one transaction, and (batch, line) is unique: whatever is killed when, each line
has one row at most, and the result files are read from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from covey_gateway.core.batches.lines import InputLine
from covey_gateway.core.batches.objects import OUTPUT_PURPOSE, PageQuery, StoredFile
from covey_gateway.core.batches.results import Result, unfinished
from covey_gateway.core.batches.state import Batch, TokensUsed, closed
from covey_gateway.io.batches.database import Database, StorageError
from covey_gateway.io.batches.files import FileStore, page_condition

SETTLED_AT_ONCE = 1000
READ_BYTES = 256 * 1024

_COUNTS = "completed, failed, output_bytes, error_bytes, input_tokens, cached_tokens, output_tokens, reasoning_tokens"
_record = msgspec.json.Decoder(Batch)

Change = Callable[[Batch], Batch]


class BatchStore:
    """Counts are columns of their own, so that an answer does not rewrite the record."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._db = database
        self._files = files

    # --- records ------------------------------------------------------------------------------------------------------

    def add(self, batch: Batch) -> None:
        """Raises StorageFullError."""
        with self._db.transaction():
            statement = f"""INSERT INTO batches (id, user, created_at_s, ended, input_file_id, record, {_COUNTS})
                VALUES (?,?,?,0,?,?,0,0,0,0,0,0,0,0)"""
            content = msgspec.json.encode(batch)
            self._db.run(statement, batch.id, batch.user, batch.created_at_s, batch.input_file_id, content)

    def get(self, batch_id: str) -> Batch | None:
        found = self._db.row(f"SELECT record, {_COUNTS} FROM batches WHERE id = ?", batch_id)
        return None if found is None else _batch(found)

    def page(self, user: str, query: PageQuery) -> list[Batch]:
        where, values = page_condition(query)
        order = "DESC" if query.newest_first else "ASC"
        statement = f"SELECT record, {_COUNTS} FROM batches WHERE user = ? {where} ORDER BY created_at_s {order}, id {order} LIMIT ?"  # noqa: E501
        return [_batch(row) for row in self._db.rows(statement, user, *values, query.limit + 1)]

    def open_ids(self) -> list[tuple[str, str]]:
        """(id, user) of those that have not ended, oldest first."""
        return [(row[0], row[1]) for row in self._db.rows("SELECT id, user FROM batches WHERE NOT ended ORDER BY id")]

    def change(self, batch_id: str, change: Change) -> Batch:
        """Read, change and write in one transaction. `change` may raise, and nothing is changed."""
        with self._db.transaction():
            return self._change(batch_id, change)

    def _change(self, batch_id: str, change: Change) -> Batch:
        before = self.get(batch_id)
        assert before is not None, "a batch vanished"
        after = change(before)
        if after is not before:
            content = msgspec.json.encode(after)
            self._db.run("UPDATE batches SET record = ?, ended = ? WHERE id = ?", content, after.ended, batch_id)
            if after.ended:
                self._db.run("DELETE FROM lines WHERE batch_id = ?", batch_id)
        return after

    def forget_ended(self, before_s: int) -> int:
        """Records of batches made before that time, ended, and whose result files are gone."""
        with self._db.transaction():
            statement = """DELETE FROM batches WHERE ended AND created_at_s < ?
                AND NOT EXISTS (SELECT 1 FROM files WHERE batch_id = batches.id)"""
            return self._db.run(statement, before_s).rowcount

    # --- lines --------------------------------------------------------------------------------------------------------

    def clear_lines(self, batch_id: str) -> None:
        """Validation begins, perhaps once more."""
        with self._db.transaction(flushed=False):
            self._db.run("DELETE FROM lines WHERE batch_id = ?", batch_id)

    def add_lines(self, batch_id: str, lines: Iterable[InputLine]) -> None:
        rows = [(batch_id, line.number, line.offset, line.length, line.custom_id) for line in lines]
        with self._db.transaction(flushed=False):
            for row in rows:
                self._db.run("INSERT INTO lines VALUES (?,?,?,?,?)", *row)

    def unanswered(self, batch_id: str, after: int, limit: int) -> list[InputLine]:
        """In the order of the file."""
        statement = """SELECT number, place, length, custom_id FROM lines WHERE batch_id = ?1 AND number > ?2
            AND NOT EXISTS (SELECT 1 FROM results WHERE batch_id = ?1 AND number = lines.number)
            ORDER BY number LIMIT ?3"""
        return [InputLine(*row) for row in self._db.rows(statement, batch_id, after, limit)]

    # --- answers ------------------------------------------------------------------------------------------------------

    def record(self, results: Sequence[Result]) -> int:
        """All of them or none; how many were new. A line's first answer stands. Raises StorageFullError."""
        self._files.check_room_for_answers(sum(len(result.line) for result in results))
        with self._db.transaction():
            return sum(self._insert(result) for result in results)

    def _insert(self, result: Result) -> int:
        statement = "INSERT OR IGNORE INTO results (batch_id, number, failed, line) VALUES (?,?,?,?)"
        if not self._db.run(statement, result.batch_id, result.number, result.failed, result.line).rowcount:
            return 0
        column, size = ("failed", "error_bytes") if result.failed else ("completed", "output_bytes")
        used = result.tokens
        self._db.run(
            f"""UPDATE batches SET {column} = {column} + 1, {size} = {size} + ?, input_tokens = input_tokens + ?,
                cached_tokens = cached_tokens + ?, output_tokens = output_tokens + ?,
                reasoning_tokens = reasoning_tokens + ? WHERE id = ?""",
            len(result.line),
            used.input_tokens,
            used.cached_tokens,
            used.output_tokens,
            used.reasoning_tokens,
            result.batch_id,
        )
        return 1

    def settle(self, batch_id: str, code: str) -> int:
        """Some of the lines without an answer get an error line; 0 when none is left."""
        left = self.unanswered(batch_id, -1, SETTLED_AT_ONCE)
        with self._db.transaction():
            for line in left:
                self._insert(unfinished(batch_id, line.number, line.custom_id, code))
        return len(left)

    def close(self, batch_id: str, now_s: int, output_id: str, error_id: str, kept_s: int) -> Batch:
        """The result files appear and the batch ends, at once."""

        def change(batch: Batch) -> Batch:
            made = (output_id if batch.completed else "", error_id if batch.failed else "")
            for file_id, errors in ((made[0], False), (made[1], True)):
                if file_id:
                    self._add_file(batch, file_id, errors, now_s, batch.output_kept_s or kept_s)
            return closed(batch, now_s, *made)

        with self._db.transaction():
            after = self._change(batch_id, change)
        self._db.give_back()
        return after

    def _add_file(self, batch: Batch, file_id: str, errors: bool, now_s: int, kept_s: int) -> None:
        name = f"{batch.id}_{'error' if errors else 'output'}.jsonl"
        size = batch.error_bytes if errors else batch.output_bytes
        self._db.run(
            "INSERT INTO files VALUES (?,?,?,?,?,?,?,?,?,1)",
            *(file_id, batch.user, name, OUTPUT_PURPOSE, size, now_s, now_s + kept_s, batch.id, errors),
        )

    def result_piece(self, file: StoredFile, after: int) -> tuple[int, bytes]:
        """Whole lines of a result file, in the input's order: (number of the last one, bytes); empty at the end."""
        found = bytearray()
        statement = "SELECT number, line FROM results WHERE batch_id = ? AND number > ? AND failed = ? ORDER BY number"
        for number, line in self._db.run(statement, file.batch_id, after, file.errors):
            found += line
            after = number
            if len(found) >= READ_BYTES:
                break
        return after, bytes(found)

    def results_after(self, batch_id: str, sequence: int) -> list[tuple[int, bytes]]:
        """Answers in the order in which they came, a bounded number of bytes: (sequence, line)."""
        found: list[tuple[int, bytes]] = []
        size = 0
        statement = "SELECT sequence, line FROM results WHERE batch_id = ? AND sequence > ? ORDER BY sequence"
        for number, line in self._db.run(statement, batch_id, sequence):
            found.append((number, line))
            size += len(line)
            if size >= READ_BYTES:
                break
        return found


def _batch(row: Any) -> Batch:
    record, completed, failed, output_bytes, error_bytes, *tokens = row
    try:
        batch = _record.decode(record)
    except msgspec.DecodeError as error:
        raise StorageError(f"a batch's record is damaged ({error})") from error
    return replace(
        batch,
        completed=completed,
        failed=failed,
        output_bytes=output_bytes,
        error_bytes=error_bytes,
        tokens=TokensUsed(*tokens),
    )
