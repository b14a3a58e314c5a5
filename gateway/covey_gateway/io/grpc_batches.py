"""The Batches service: files and batches typed, over the same door as HTTP. Translation only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, NoReturn
from urllib.parse import quote, urlencode

from covey_gateway.core.batches.objects import INPUT_PURPOSE
from covey_gateway.core.batches.wishes import KEPT_MAX_S, KEPT_MIN_S
from covey_gateway.core.errors import GatewayError, invalid_field
from covey_gateway.core.pages import PlainRequest, PlainResponse
from covey_gateway.io.batches.door import BATCHES, FILES, LAST_SEQUENCE, BatchDoor, whole_body
from covey_gateway.io.grpc_call import error_message, status_code
from covey_gateway.io.grpc_gate import bearer
from covey_gateway.io.grpc_inference import Authenticate, Context
from covey_mesh.wire.v1 import batches_pb2 as wire
from covey_mesh.wire.v1 import batches_pb2_grpc

ANSWER_BYTES_MAX = 64 * 2**20
RESULTS_LOOK_S = 0.25
"""How often a running batch is asked for further results."""

FILES_PAGE = 100
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
REACHED = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class BatchesService(batches_pb2_grpc.BatchesServicer):
    """Every decision is the door's."""

    def __init__(self, door: BatchDoor, authenticate: Authenticate) -> None:
        self._door = door
        self._authenticate = authenticate

    # --- files --------------------------------------------------------------------------------------------------------

    async def UploadFile(self, requests: AsyncIterator[wire.UploadFileRequest], context: Context) -> wire.BatchFile:
        user = await self._authenticate(context)
        try:
            head = await _header(requests)
            purpose = head.purpose or INPUT_PURPOSE
            kept_s = _kept_s(head.expires_after_s)
            found = await self._door.upload(user, head.filename, purpose, kept_s, _contents(requests))
        except GatewayError as error:
            await _refuse(context, error)
        return _file(found)

    async def DownloadFile(self, request: wire.DownloadFileRequest, context: Context) -> AsyncIterator[wire.FileChunk]:
        response = await self._asked(context, "GET", f"{FILES}/{_part(request.file_id)}/content")
        if response.pieces is None:
            return
        try:
            async for piece in response.pieces:
                yield wire.FileChunk(content=piece)
        except GatewayError as error:
            await _refuse(context, error)
        finally:
            await response.pieces.aclose()

    async def ListFiles(self, request: wire.ListFilesRequest, context: Context) -> wire.ListFilesResponse:
        query = {"limit": request.limit or FILES_PAGE, "after": request.after, "purpose": request.purpose}
        found = await self._json(context, "GET", FILES, query)
        return wire.ListFilesResponse(files=[_file(each) for each in found["data"]], has_more=found["has_more"])

    async def DeleteFile(self, request: wire.DeleteFileRequest, context: Context) -> wire.DeleteFileResponse:
        found = await self._json(context, "DELETE", f"{FILES}/{_part(request.file_id)}")
        return wire.DeleteFileResponse(deleted=found["deleted"])

    # --- batches ------------------------------------------------------------------------------------------------------

    async def CreateBatch(self, request: wire.CreateBatchRequest, context: Context) -> wire.BatchJob:
        wish: dict[str, Any] = {
            "input_file_id": request.input_file_id,
            "endpoint": request.endpoint,
            "completion_window": request.completion_window or "24h",
            "metadata": dict(request.metadata),
        }
        if request.output_expires_after_s:
            wish["output_expires_after"] = {"anchor": "created_at", "seconds": request.output_expires_after_s}
        return _batch(await self._json(context, "POST", BATCHES, body=json.dumps(wish).encode()))

    async def GetBatch(self, request: wire.GetBatchRequest, context: Context) -> wire.BatchJob:
        return _batch(await self._json(context, "GET", f"{BATCHES}/{_part(request.batch_id)}"))

    async def CancelBatch(self, request: wire.CancelBatchRequest, context: Context) -> wire.BatchJob:
        return _batch(await self._json(context, "POST", f"{BATCHES}/{_part(request.batch_id)}/cancel"))

    async def ListBatches(self, request: wire.ListBatchesRequest, context: Context) -> wire.ListBatchesResponse:
        query = {"limit": request.limit or 20, "after": request.after}
        found = await self._json(context, "GET", BATCHES, query)
        return wire.ListBatchesResponse(batches=[_batch(each) for each in found["data"]], has_more=found["has_more"])

    async def StreamResults(
        self, request: wire.StreamResultsRequest, context: Context
    ) -> AsyncIterator[wire.BatchResult]:
        after = request.after_sequence
        while True:
            path = f"{BATCHES}/{_part(request.batch_id)}/results"
            found = await self._json(context, "GET", path, {"after": after})
            for place, line in enumerate(found["data"], start=1):
                last = place == len(found["data"])
                yield _result(line, found[LAST_SEQUENCE] if last else 0)
            after = found[LAST_SEQUENCE]
            if found["data"]:
                continue
            if found["batch"]["status"] in ENDED:
                return
            await asyncio.sleep(RESULTS_LOOK_S)

    # --- asking the door ----------------------------------------------------------------------------------------------

    async def _asked(
        self, context: Context, method: str, path: str, query: dict[str, Any] | None = None, body: bytes = b""
    ) -> PlainResponse:
        """Its answer with status 200; ends the call otherwise."""
        user = await self._authenticate(context)
        given = urlencode({name: value for name, value in (query or {}).items() if value != ""})
        try:
            key = bearer(context.invocation_metadata())
            headers = {"authorization": f"Bearer {key}"} if key else {}
            response = await self._door.handle(PlainRequest(method, path, "", given, headers, body, user))
            if response.status == 200:
                return response
            content = await whole_body(response, ANSWER_BYTES_MAX)
        except GatewayError as error:
            await _refuse(context, error)
        await context.abort(status_code(response.status), error_message(content))
        raise AssertionError("abort returned")

    async def _json(
        self, context: Context, method: str, path: str, query: dict[str, Any] | None = None, body: bytes = b""
    ) -> Any:
        response = await self._asked(context, method, path, query, body)
        try:
            return json.loads(await whole_body(response, ANSWER_BYTES_MAX))
        except GatewayError as error:
            await _refuse(context, error)


async def _refuse(context: Context, error: GatewayError) -> NoReturn:
    trailing = (("retry-after", str(error.retry_after_s)),) if error.retry_after_s else ()
    await context.abort(status_code(error.status), error.message, trailing)
    raise AssertionError("abort returned")


async def _header(requests: AsyncIterator[wire.UploadFileRequest]) -> wire.FileHeader:
    async for request in requests:
        if request.WhichOneof("part") == "header":
            return request.header
        break
    raise invalid_field("The first message of an upload must hold `header`", "header")


async def _contents(requests: AsyncIterator[wire.UploadFileRequest]) -> AsyncIterator[bytes]:
    async for request in requests:
        if request.WhichOneof("part") != "content":
            raise invalid_field("Every message after the first must hold `content`", "content")
        yield request.content


def _kept_s(seconds: int) -> int:
    if seconds and not KEPT_MIN_S <= seconds <= KEPT_MAX_S:
        raise invalid_field(f"`expires_after_s` must be {KEPT_MIN_S} to {KEPT_MAX_S}", "expires_after_s")
    return seconds


def _part(text: str) -> str:
    return quote(text, safe="") or "-"


def _file(found: Any) -> wire.BatchFile:
    return wire.BatchFile(
        id=found["id"],
        filename=found["filename"],
        purpose=found["purpose"],
        size_bytes=found["bytes"],
        created_at_unix_s=found["created_at"],
        expires_at_unix_s=found["expires_at"] or 0,
    )


def _batch(found: Any) -> wire.BatchJob:
    counts, about = found["request_counts"], found["covey"]
    return wire.BatchJob(
        id=found["id"],
        status=found["status"],
        endpoint=found["endpoint"],
        model=found["model"] or "",
        input_file_id=found["input_file_id"],
        output_file_id=found["output_file_id"] or "",
        error_file_id=found["error_file_id"] or "",
        completion_window=found["completion_window"],
        created_at_unix_s=found["created_at"],
        expires_at_unix_s=found["expires_at"],
        reached_at_unix_s={name: found[f"{name}_at"] for name in REACHED if found[f"{name}_at"]},
        lines_total=counts["total"],
        lines_completed=counts["completed"],
        lines_failed=counts["failed"],
        input_tokens=found["usage"]["input_tokens"],
        output_tokens=found["usage"]["output_tokens"],
        errors=[_error(error) for error in (found["errors"] or {}).get("data", [])],
        metadata=found["metadata"] or {},
        machine=about["machine"],
        waits_for=about["waits_for"] or "",
    )


def _error(error: Any) -> wire.BatchLineError:
    line, param = error["line"] or 0, error["param"] or ""
    return wire.BatchLineError(code=error["code"], message=error["message"], line=line, param=param)


def _result(line: Any, sequence: int) -> wire.BatchResult:
    response, error = line["response"] or {}, line["error"] or {}
    body = json.dumps(response["body"], ensure_ascii=False) if response else ""
    return wire.BatchResult(
        custom_id=line["custom_id"],
        status_code=response.get("status_code", 0),
        request_id=response.get("request_id", ""),
        body_json=body,
        error_code=error.get("code", ""),
        error_message=error.get("message", ""),
        sequence=sequence,
    )
