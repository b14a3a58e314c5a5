"""The files and batches of this machine: one object over the database and its thread, for doors and runner.

Not here: whose machine an id belongs to (door.py), HTTP, and the running of lines (runner.py).
"""

from __future__ import annotations

import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from covey_gateway.core.batches.ids import BATCH, FILE, make_id
from covey_gateway.core.batches.objects import INPUT_PURPOSE, PageQuery, StoredFile
from covey_gateway.core.batches.settings import BatchSettings
from covey_gateway.core.batches.state import Batch, IllegalChangeError, cancelled_by_user
from covey_gateway.core.batches.wishes import BatchWish, object_not_found
from covey_gateway.core.errors import Code, GatewayError, unavailable
from covey_gateway.io.batches.database import Database, DatabaseThread, StorageError, StorageFullError
from covey_gateway.io.batches.files import CHUNK_BYTES, FileStore
from covey_gateway.io.batches.records import BatchStore
from covey_mesh.core.names import NodeId

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

FILE_NAME = "batches.db"
RANDOM_BITS = 64


class BatchLibrary:
    """`open` before anything else. `clock` is Unix time: it must go on counting across restarts.

    Every method raises GatewayError: 404 for what is not there or not the user's, 507 and 503 for the disk.
    """

    def __init__(self, folder: Path, node_id: NodeId, settings: BatchSettings, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.clock = clock
        self.node_id = node_id
        self.thread = DatabaseThread()
        self._folder = folder
        self._database: Database | None = None
        self._files: FileStore | None = None
        self._batches: BatchStore | None = None
        self._trouble = "not opened yet"
        self._uploads: set[str] = set()

    async def open(self) -> bool:
        """False, logged, where the database cannot be used: everything else of the agent works without it."""
        try:
            await self.thread.call(self._open)
        except StorageError as error:
            self._trouble = str(error)
            logger.error("files and batches are not available: %s", error)
            return False
        return True

    def _open(self) -> None:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be made: {error.strerror}") from error
        database = Database(self._folder / FILE_NAME)
        files = FileStore(database, self.settings)
        try:
            # On a full disk, what is there can still be read, and deleted once there is room.
            with contextlib.suppress(StorageFullError):
                files.drop_unfinished(())
        except BaseException:
            database.close()
            raise
        self._database, self._files, self._batches = database, files, BatchStore(database, files)

    async def close(self) -> None:
        if self._database is not None:
            await self.thread.call(self._database.close)
            self._database = self._files = self._batches = None
            self._trouble = "the agent is stopping"
        self.thread.close()

    @property
    def is_open(self) -> bool:
        return self._database is not None

    @property
    def files(self) -> FileStore:
        if self._files is None:
            raise storage_refusal(StorageError(self._trouble))
        return self._files

    @property
    def batches(self) -> BatchStore:
        if self._batches is None:
            raise storage_refusal(StorageError(self._trouble))
        return self._batches

    def new_id(self, kind: str) -> str:
        return make_id(kind, self.node_id, int(self.clock()), secrets.randbits(RANDOM_BITS))

    # --- files --------------------------------------------------------------------------------------------------------

    async def begin_upload(self, user: str) -> UploadedFile:
        """Use as an async context manager: leaving it without `finish` deletes what came."""
        if len(self._uploads) >= self.settings.uploads_max:
            raise unavailable(Code.GATEWAY_FULL, "Too many uploads are under way here. Retry soon.", 2)
        made = UploadedFile(self, self.new_id(FILE), user)
        self._uploads.add(made.id)
        try:
            await self.call(self.files.begin, made.id, user, int(self.clock()))
        except BaseException:
            self._uploads.discard(made.id)
            raise
        return made

    def upload_ended(self, file_id: str) -> None:
        self._uploads.discard(file_id)

    async def file(self, user: str, file_id: str) -> StoredFile:
        found = await self.call(self.files.get, file_id)
        if found is None or found.user != user:
            raise object_not_found("file", file_id)
        return found

    async def file_page(self, user: str, query: PageQuery) -> list[StoredFile]:
        return await self.call(self.files.page, user, query)

    async def delete_file(self, user: str, file_id: str) -> None:
        await self.file(user, file_id)
        if not await self.call(self.files.delete, file_id):
            message = "A batch that has not ended reads from this file. Cancel the batch, or wait for its end."
            raise GatewayError(409, Code.OBJECT_IN_USE, message)

    async def content(self, file: StoredFile) -> AsyncGenerator[bytes, None]:
        """Piece by piece; the caller has asked `file` whether it may."""
        place = 0
        while file.batch_id:
            place, piece = await self.call(self.batches.result_piece, file, place)
            if not piece:
                return
            yield piece
        while place < file.size_bytes:
            piece = await self.call(self.files.read, file, place)
            if not piece:
                raise object_not_found("file", file.id)
            place += len(piece)
            yield piece

    # --- batches ------------------------------------------------------------------------------------------------------

    async def create(self, user: str, wish: BatchWish) -> Batch:
        file = await self.file(user, wish.input_file.text)
        if file.purpose != INPUT_PURPOSE:
            message = f"`{file.id}` was uploaded for `{file.purpose}`. Upload it with purpose `batch`."
            raise GatewayError(400, Code.INVALID_FIELD, message, param="input_file_id")
        now_s = int(self.clock())
        batch = Batch(
            id=self.new_id(BATCH),
            user=user,
            endpoint=wish.endpoint,
            input_file_id=file.id,
            window=wish.window,
            created_at_s=now_s,
            expires_at_s=now_s + wish.window_s,
            metadata=dict(wish.metadata),
            output_kept_s=wish.output_kept_s,
        )
        return await self.call(self._add_batch, batch)

    def _add_batch(self, batch: Batch) -> Batch:
        """One call: two creations at once must not both find the last free place, nor the file deleted meanwhile."""
        open_users = [user for _, user in self.batches.open_ids()]
        settings = self.settings
        if len(open_users) >= settings.open_batches_max or (
            open_users.count(batch.user) >= settings.open_batches_per_user_max
        ):
            message = "Too many batches have not ended. Wait for one, or cancel one."
            raise GatewayError(429, Code.TOO_MANY_BATCHES, message, "rate_limit_error", retry_after_s=60)
        if self.files.get(batch.input_file_id) is None:
            raise object_not_found("file", batch.input_file_id, "input_file_id")
        self.batches.add(batch)
        return batch

    async def batch(self, user: str, batch_id: str) -> Batch:
        found = await self.call(self.batches.get, batch_id)
        if found is None or found.user != user:
            raise object_not_found("batch", batch_id)
        return found

    async def batch_page(self, user: str, query: PageQuery) -> list[Batch]:
        return await self.call(self.batches.page, user, query)

    async def cancel(self, user: str, batch_id: str) -> Batch:
        """The runner is to be woken after this."""
        await self.batch(user, batch_id)
        now_s = self.clock()
        try:
            return await self.call(self.batches.change, batch_id, lambda batch: cancelled_by_user(batch, now_s))
        except IllegalChangeError as error:
            raise GatewayError(400, Code.BATCH_ENDED, f"Too late: {error}.") from None

    async def results_after(self, user: str, batch_id: str, sequence: int) -> list[tuple[int, bytes]]:
        await self.batch(user, batch_id)
        return await self.call(self.batches.results_after, batch_id, sequence)

    # --- upkeep -------------------------------------------------------------------------------------------------------

    async def used(self) -> tuple[int, int]:
        """(bytes, files)"""
        return await self.call(self.files.used)

    async def delete_expired(self) -> int:
        """Files whose time is over, and records of batches of which nothing is left; how many files."""
        now_s = int(self.clock())
        await self.call(self.files.drop_unfinished, frozenset(self._uploads))
        gone = await self.call(self.files.expired, now_s)
        for file_id in gone:
            await self.call(self.files.drop, file_id)
        await self.call(self.batches.forget_ended, now_s - int(self.settings.kept_s))
        if self._database is not None:
            await self.call(self._database.tidy)
        return len(gone)

    async def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """On the database's thread. Raises GatewayError."""
        try:
            return await self.thread.call(function, *arguments)
        except StorageError as error:
            raise storage_refusal(error) from error


class UploadedFile:
    """An upload under way. Pieces may have any size; on disk they are of one."""

    def __init__(self, library: BatchLibrary, file_id: str, user: str) -> None:
        self.id = file_id
        self.user = user
        self.size_bytes = 0
        self._library = library
        self._held = bytearray()
        self._number = 0
        self._finished = False

    async def __aenter__(self) -> UploadedFile:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._library.upload_ended(self.id)
        if not self._finished and self._library.is_open:
            await self._library.call(self._library.files.drop, self.id)

    async def write(self, piece: bytes) -> None:
        self.size_bytes += len(piece)
        most = self._library.settings.file_bytes_max
        if self.size_bytes > most:
            raise GatewayError(413, Code.BODY_TOO_LARGE, f"A file may have at most {most} bytes. Split it.")
        self._held += piece
        while len(self._held) >= CHUNK_BYTES:
            await self._append(bytes(self._held[:CHUNK_BYTES]))
            del self._held[:CHUNK_BYTES]

    async def finish(self, filename: str, purpose: str, kept_s: int) -> StoredFile:
        """`kept_s` 0: as usual for this purpose."""
        if self._held:
            await self._append(bytes(self._held))
            self._held.clear()
        library = self._library
        usual_s = int(library.settings.kept_s) if purpose == INPUT_PURPOSE else 0
        expires_at_s = int(library.clock()) + (kept_s or usual_s) if kept_s or usual_s else 0
        made = await library.call(library.files.finish, self.id, filename, purpose, expires_at_s)
        self._finished = True
        return made

    async def take(self, pieces: AsyncIterator[bytes]) -> None:
        async for piece in pieces:
            await self.write(piece)

    async def _append(self, content: bytes) -> None:
        await self._library.call(self._library.files.append, self.id, self._number, content)
        self._number += 1


def storage_refusal(error: StorageError) -> GatewayError:
    """507 where there is no room, 503 where the disk or the database is broken."""
    if isinstance(error, StorageFullError):
        return GatewayError(507, Code.STORAGE_FULL, f"No room: {error}.", "server_error")
    return GatewayError(503, Code.STORAGE_FAILED, f"Files and batches are not available here: {error}.", "server_error")
