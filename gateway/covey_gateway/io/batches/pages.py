"""Routes of /v1/files and /v1/batches, and the upload form: multipart/form-data with `file`, `purpose` and
`expires_after[...]`, in any order, straight to disk.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from covey_gateway.core.batches.multipart import MultipartError, MultipartReader, Part, PartEnd, boundary_of
from covey_gateway.core.batches.objects import file_object
from covey_gateway.core.batches.wishes import check_purpose, clean_filename, kept_for
from covey_gateway.core.errors import Code, GatewayError, invalid_field
from covey_gateway.core.pages import PlainRequest, PlainResponse, Route, Routes
from covey_gateway.io.batches.door import BATCHES, FILES, BatchDoor
from covey_gateway.io.batches.library import UploadedFile

FORM_BYTES = 64 * 1024
"""What the form's other fields and its boundaries may add to the file."""

FIELD_BYTES_MAX = 1024
FIELDS = ("purpose", "expires_after[anchor]", "expires_after[seconds]")


class BatchPages:
    def __init__(self, door: BatchDoor) -> None:
        self._door = door

    def routes(self) -> Routes:
        handle = Route(self._door.handle)
        most = self._door.library.settings.file_bytes_max + FORM_BYTES
        exact = {
            ("POST", FILES): Route(self.upload, upload_bytes_max=most),
            ("GET", FILES): handle,
            ("GET", BATCHES): handle,
            ("POST", BATCHES): handle,
        }
        below = {(method, f"{FILES}/"): handle for method in ("GET", "DELETE")}
        return Routes(exact, {**below, **{(method, f"{BATCHES}/"): handle for method in ("GET", "POST")}})

    async def upload(self, request: PlainRequest) -> PlainResponse:
        boundary = boundary_of(request.headers.get("content-type", ""))
        if boundary is None:
            raise invalid_field("Send a form (multipart/form-data) with `file` and `purpose`", "file")
        form = _Form(MultipartReader(boundary))
        async with await self._door.library.begin_upload(request.user) as upload:
            async for piece in request.pieces or _one(request.body):
                try:
                    await form.take(piece, upload)
                except MultipartError as error:
                    raise invalid_field(f"The form is malformed: {error}", None) from None
            purpose, kept_s = form.wishes()
            made = await upload.finish(clean_filename(form.filename), purpose, kept_s)
        return PlainResponse(body=msgspec.json.encode(file_object(made)))


class _Form:
    """The fields of one upload, as they come."""

    def __init__(self, reader: MultipartReader) -> None:
        self.filename = ""
        self._reader = reader
        self._fields: dict[str, bytearray] = {}
        self._field: bytearray | None = None
        self._in_file = False
        self._files = 0

    async def take(self, piece: bytes, upload: UploadedFile) -> None:
        """Raises MultipartError, GatewayError."""
        for event in self._reader.feed(piece):
            if isinstance(event, Part):
                self._begin(event)
            elif isinstance(event, PartEnd):
                self._in_file, self._field = False, None
            elif self._in_file:
                await upload.write(event)
            elif self._field is not None:
                self._field += event
                if len(self._field) > FIELD_BYTES_MAX:
                    raise invalid_field("A field of the form is too long", None)

    def wishes(self) -> tuple[str, int]:
        """(purpose, seconds to keep the file; 0: as usual), once all has come. Raises GatewayError."""
        if not self._reader.complete:
            raise invalid_field("The form is incomplete: its last boundary is missing", None)
        if not self._files:
            raise invalid_field("`file` is missing", "file")
        values = {name: value.decode("utf-8", "replace").strip() for name, value in self._fields.items()}
        if "purpose" not in values:
            raise invalid_field("`purpose` is missing", "purpose")
        purpose = check_purpose(values["purpose"])
        anchor, seconds = (values.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
        if anchor is None and seconds is None:
            return purpose, 0
        return purpose, kept_for(anchor or "", seconds or "", "expires_after")

    def _begin(self, part: Part) -> None:
        if part.name == "file":
            self._files += 1
            if self._files > 1:
                raise GatewayError(400, Code.INVALID_FIELD, "Upload one file at a time.", param="file")
            self._in_file, self.filename = True, part.filename or ""
        elif part.name in FIELDS:
            self._field = self._fields.setdefault(part.name, bytearray())


async def _one(body: bytes) -> AsyncIterator[bytes]:
    yield body
