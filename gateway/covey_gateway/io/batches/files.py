"""Files on disk: uploads in pieces, reading, listing, deletion. Runs on the database's thread.

The result files of a batch hold nothing of their own: they are read from the rows of its answers.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from covey_gateway.core.batches.objects import PageQuery, StoredFile
from covey_gateway.core.batches.settings import MIB, BatchSettings
from covey_gateway.io.batches.database import Database, StorageFullError

CHUNK_BYTES = 256 * 1024
_COLUMNS = "id, user, filename, purpose, size_bytes, created_at_s, expires_at_s, batch_id, errors"


class FileStore:
    """Every method is one transaction or none."""

    def __init__(self, database: Database, settings: BatchSettings) -> None:
        self._db = database
        self._settings = settings

    # --- uploads ------------------------------------------------------------------------------------------------------

    def begin(self, file_id: str, user: str, now_s: int) -> None:
        """Raises StorageFullError."""
        self.check_room(0)
        values = (file_id, user, "", "", 0, now_s, 0, "", 0)
        with self._db.transaction(flushed=False):
            self._db.run(f"INSERT INTO files ({_COLUMNS}, complete) VALUES (?,?,?,?,?,?,?,?,?, 0)", *values)

    def append(self, file_id: str, number: int, content: bytes) -> None:
        """Every piece but the last has CHUNK_BYTES. Raises StorageFullError."""
        self.check_room(len(content), files=0)
        with self._db.transaction(flushed=False):
            self._db.run("INSERT INTO chunks (file_id, number, content) VALUES (?,?,?)", file_id, number, content)
            self._db.run("UPDATE files SET size_bytes = size_bytes + ? WHERE id = ?", len(content), file_id)

    def finish(self, file_id: str, filename: str, purpose: str, expires_at_s: int) -> StoredFile:
        """The file exists from here on."""
        with self._db.transaction():
            statement = "UPDATE files SET filename = ?, purpose = ?, expires_at_s = ?, complete = 1 WHERE id = ?"
            self._db.run(statement, filename, purpose, expires_at_s, file_id)
        found = self.get(file_id)
        assert found is not None, "an upload vanished"
        return found

    def drop(self, file_id: str) -> None:
        """An upload that came to nothing, or a file whose time is over."""
        with self._db.transaction():
            self.delete_rows(file_id)
        self._db.give_back()

    def drop_unfinished(self, under_way: Collection[str]) -> None:
        """Uploads that a killed agent left, or that a full disk did not let go. Raises StorageFullError."""
        for (file_id,) in self._db.rows("SELECT id FROM files WHERE NOT complete"):
            if file_id not in under_way:
                self.drop(file_id)

    # --- looking ------------------------------------------------------------------------------------------------------

    def get(self, file_id: str) -> StoredFile | None:
        found = self._db.row(f"SELECT {_COLUMNS} FROM files WHERE id = ? AND complete", file_id)
        return None if found is None else _file(found)

    def page(self, user: str, query: PageQuery) -> list[StoredFile]:
        """One more than the page holds, if there are more."""
        where, values = page_condition(query)
        if query.purpose:
            where, values = f"{where} AND purpose = ?", [*values, query.purpose]
        order = "DESC" if query.newest_first else "ASC"
        statement = f"SELECT {_COLUMNS} FROM files WHERE user = ? AND complete {where} ORDER BY created_at_s {order}, id {order} LIMIT ?"  # noqa: E501
        return [_file(row) for row in self._db.rows(statement, user, *values, query.limit + 1)]

    def read(self, file: StoredFile, place: int) -> bytes:
        """The next piece from `place` on; empty at the end."""
        if file.batch_id:
            raise AssertionError("a result file is read from its batch")
        return self.span(file.id, place, CHUNK_BYTES - place % CHUNK_BYTES)

    def span(self, file_id: str, place: int, length: int) -> bytes:
        """`length` bytes of an uploaded file, across its pieces."""
        first, last = place // CHUNK_BYTES, (place + max(length, 1) - 1) // CHUNK_BYTES
        statement = "SELECT content FROM chunks WHERE file_id = ? AND number BETWEEN ? AND ? ORDER BY number"
        whole = b"".join(row[0] for row in self._db.rows(statement, file_id, first, last))
        start = place - first * CHUNK_BYTES
        return whole[start : start + length]

    def delete(self, file_id: str) -> bool:
        """False, and nothing deleted, while a batch that has not ended reads from it."""
        with self._db.transaction():
            if self._db.row("SELECT 1 FROM batches WHERE input_file_id = ? AND NOT ended", file_id) is not None:
                return False
            self.delete_rows(file_id)
        self._db.give_back()
        return True

    def delete_rows(self, file_id: str) -> None:
        """Inside a transaction. Of a result file the answers go, the batch's record stays."""
        found = self._db.row("SELECT batch_id, errors FROM files WHERE id = ?", file_id)
        if found is None:
            return
        if found[0]:
            self._db.run("DELETE FROM results WHERE batch_id = ? AND failed = ?", found[0], found[1])
            column = "error_bytes" if found[1] else "output_bytes"
            self._db.run(f"UPDATE batches SET {column} = 0 WHERE id = ?", found[0])
        self._db.run("DELETE FROM chunks WHERE file_id = ?", file_id)
        self._db.run("DELETE FROM files WHERE id = ?", file_id)

    def expired(self, now_s: int) -> list[str]:
        """Files whose time is over and that no batch needs any more."""
        statement = """SELECT id FROM files WHERE complete AND expires_at_s AND expires_at_s <= ? AND NOT EXISTS
            (SELECT 1 FROM batches WHERE input_file_id = files.id AND NOT ended) LIMIT 100"""
        return [row[0] for row in self._db.rows(statement, now_s)]

    # --- room ---------------------------------------------------------------------------------------------------------

    def used(self) -> tuple[int, int]:
        """(bytes, files) kept now, uploads under way and answers included."""
        count, uploaded = self._db.row("SELECT count(*), coalesce(sum(size_bytes * (batch_id = '')), 0) FROM files")
        (answers,) = self._db.row("SELECT coalesce(sum(output_bytes + error_bytes), 0) FROM batches")
        return int(uploaded) + int(answers), int(count)

    def check_room(self, more_bytes: int, files: int = 1) -> None:
        """For an upload. Raises StorageFullError where a bound would be passed."""
        self._check_disk(more_bytes, self._settings.disk_left_bytes)
        used_bytes, count = self.used()
        if count + files > self._settings.files_max:
            raise StorageFullError(f"this machine keeps {count} files, as many as it may: delete some")
        self._check_bound(used_bytes, more_bytes)

    def check_room_for_answers(self, more_bytes: int) -> None:
        """Raises StorageFullError where a bound would be passed."""
        self._check_disk(more_bytes, self._settings.disk_left_by_answers_bytes)
        self._check_bound(self.used()[0], more_bytes)

    def _check_disk(self, more_bytes: int, left_bytes: int) -> None:
        if self._db.free_bytes() - more_bytes < left_bytes:
            text = f"the disk that holds {self._db.folder} is full but for {left_bytes // MIB} MiB, which stay free"
            raise StorageFullError(f"{text}: make room, or delete files of ended batches")

    def _check_bound(self, used_bytes: int, more_bytes: int) -> None:
        most = self._settings.storage_bytes_max
        if used_bytes + more_bytes > most:
            text = f"files and answers take {used_bytes} of {most} bytes (batch_storage_bytes)"
            raise StorageFullError(f"{text}: delete files of ended batches")


def page_condition(query: PageQuery) -> tuple[str, list[Any]]:
    """What comes after the cursor."""
    cursor = query.cursor()
    if cursor is None:
        return "", []
    return f"AND (created_at_s, id) {'<' if query.newest_first else '>'} (?, ?)", [*cursor]


def _file(row: Any) -> StoredFile:
    values = [*row[:-1], bool(row[-1])]
    return StoredFile(*values)
