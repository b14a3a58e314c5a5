"""The database of files and batches: its tables, its transactions, and the one thread that may touch it.

SQLite with a write-ahead log: a transaction is on disk whole or not at all, wherever the process is killed. What a
client was promised (an upload, a batch, a line's answer) is flushed before it is told; pieces of an upload are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

_T = TypeVar("_T")

SCHEMA_VERSION = 1
PAGE_BYTES = 16 * 1024
VACUUM_PAGES = 4096
"""Free pages given back to the file system after a deletion, at most."""

LOG_BYTES_MAX = 64 * 2**20
"""The write-ahead log is cut back to this size."""

SCHEMA = """
CREATE TABLE files (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, filename TEXT NOT NULL, purpose TEXT NOT NULL, size_bytes INTEGER NOT NULL,
    created_at_s INTEGER NOT NULL, expires_at_s INTEGER NOT NULL, batch_id TEXT NOT NULL, errors INTEGER NOT NULL,
    complete INTEGER NOT NULL
) STRICT;
CREATE INDEX files_of ON files (user, created_at_s, id);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY, file_id TEXT NOT NULL, number INTEGER NOT NULL, content BLOB NOT NULL,
    UNIQUE (file_id, number)
) STRICT;
CREATE TABLE batches (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, created_at_s INTEGER NOT NULL, ended INTEGER NOT NULL,
    input_file_id TEXT NOT NULL, completed INTEGER NOT NULL, failed INTEGER NOT NULL, output_bytes INTEGER NOT NULL,
    error_bytes INTEGER NOT NULL, input_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, reasoning_tokens INTEGER NOT NULL, record BLOB NOT NULL
) STRICT;
CREATE INDEX batches_of ON batches (user, created_at_s, id);
CREATE TABLE lines (
    batch_id TEXT NOT NULL, number INTEGER NOT NULL, place INTEGER NOT NULL, length INTEGER NOT NULL,
    custom_id TEXT NOT NULL, PRIMARY KEY (batch_id, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE results (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, batch_id TEXT NOT NULL, number INTEGER NOT NULL,
    failed INTEGER NOT NULL, line BLOB NOT NULL, UNIQUE (batch_id, number)
) STRICT;
"""


class StorageError(Exception):
    """The disk or the database refuses; the message says what to do."""


class StorageFullError(StorageError):
    """No room, on the disk or within the bound; nothing was changed."""


class Database:
    """Use from one thread. `pages_max` bounds the file (0: by the disk alone)."""

    def __init__(self, path: Path, pages_max: int = 0) -> None:
        self._path = path
        try:
            # Its contents are what people wrote: for this user alone from the first byte, as are the files beside it.
            path.touch(mode=0o600)
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._prepare(pages_max)
        except (sqlite3.DatabaseError, OSError) as error:
            raise StorageError(f"{path} cannot be used ({error}): move it away, or mend its permissions") from error

    def _prepare(self, pages_max: int) -> None:
        run = self._connection.execute
        (version,) = run("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise StorageError(f"{self._path} was written by a newer covey: update this one, or move the file away")
        if not version:
            run(f"PRAGMA page_size = {PAGE_BYTES}")
            run("PRAGMA auto_vacuum = INCREMENTAL")
        run("PRAGMA journal_mode = WAL")
        run(f"PRAGMA journal_size_limit = {LOG_BYTES_MAX}")
        run("PRAGMA synchronous = NORMAL")
        if pages_max:
            run(f"PRAGMA max_page_count = {pages_max}")
        if not version:
            self._connection.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def run(self, statement: str, *values: Any) -> sqlite3.Cursor:
        return self._connection.execute(statement, values)

    def rows(self, statement: str, *values: Any) -> list[Any]:
        return self.run(statement, *values).fetchall()

    def row(self, statement: str, *values: Any) -> Any:
        return self.run(statement, *values).fetchone()

    @contextlib.contextmanager
    def transaction(self, flushed: bool = True) -> Iterator[None]:
        """All of it or nothing. Raises StorageFullError, StorageError."""
        try:
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if flushed else 'NORMAL'}")
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise storage_error(error, self._path) from error
        except BaseException:
            self._roll_back()
            raise

    def give_back(self) -> None:
        """Free pages go to the file system, some at a time."""
        with contextlib.suppress(sqlite3.OperationalError):
            # Not `execute`: that takes one step of it, which is one page.
            self._connection.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")

    def tidy(self) -> None:
        """Now and then: all that is free goes to the file system, the log's room too."""
        self.give_back()
        with contextlib.suppress(sqlite3.OperationalError):
            self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    @property
    def folder(self) -> Path:
        return self._path.parent

    def free_bytes(self) -> int:
        """Of the disk, for this user, with what is free inside the file."""
        found = os.statvfs(self.folder)
        (pages,) = self.row("PRAGMA freelist_count")
        return found.f_bavail * found.f_frsize + int(pages) * PAGE_BYTES

    def close(self) -> None:
        self._connection.close()

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")


def storage_error(error: sqlite3.Error, path: Path) -> StorageError:
    """SQLite's word, and what to do about it."""
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL" or "IOERR_WRITE" in name:
        return StorageFullError(f"the disk that holds {path} is full: make room, or delete files of ended batches")
    return StorageError(f"{path} cannot be written ({error}): see its permissions and its disk")


class DatabaseThread:
    """Runs calls one after the other, off the event loop."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="covey-batches")

    async def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Shielded: a caller that is cancelled leaves a whole call behind, never half of one. Raises StorageError."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)
        try:
            return await asyncio.shield(future)
        except sqlite3.Error as error:
            raise StorageError(f"the database of files and batches cannot be read ({error}): see its disk") from error

    def close(self) -> None:
        """Waits for what is queued."""
        self._executor.shutdown(wait=True)
