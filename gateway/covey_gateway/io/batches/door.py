"""The door to files and batches, for HTTP, gRPC and other machines alike: finds the owner, answers or asks it.

An upload stays on the machine that took it, and so do its batches. Any other gateway passes questions on to the owner
and lists what all machines keep. A user sees only what is its own. Who shows no key (on loopback) is a user of its
machine alone: lists show what this machine keeps, and what others keep is found by its id, which cannot be guessed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

import msgspec

from covey_gateway.core.batches.ids import BATCH, FILE, ObjectId, owner_among
from covey_gateway.core.batches.objects import batch_object, file_object, page
from covey_gateway.core.batches.state import Batch
from covey_gateway.core.batches.wishes import (
    check_purpose,
    clean_filename,
    known_id,
    object_not_found,
    read_batch_wish,
    read_page_query,
)
from covey_gateway.core.errors import GatewayError, method_not_allowed, path_not_found
from covey_gateway.core.pages import PlainRequest, PlainResponse
from covey_gateway.io.batches.library import BatchLibrary
from covey_gateway.io.batches.peers import ask_peer, owner_unreachable
from covey_gateway.io.batches.runner import BatchRunner
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import Mesh

FILES, BATCHES = "/v1/files", "/v1/batches"
LIST_MACHINES_MAX = 64
LIST_WAIT_S = 2.0
LIST_BYTES_MAX = 16 * 2**20
JSON_LINES = "application/octet-stream"
LAST_SEQUENCE = "last_sequence"


class BatchDoor:
    """`handle` answers requests below /v1/files and /v1/batches, except uploads: `upload`."""

    def __init__(self, library: BatchLibrary, runner: BatchRunner, mesh: Mesh, name: str) -> None:
        self._library = library
        self._runner = runner
        self._mesh = mesh
        self._name = name

    # --- uploads ------------------------------------------------------------------------------------------------------

    async def upload(self, user: str, filename: str, purpose: str, kept_s: int, pieces: AsyncIterator[bytes]) -> Any:
        """A whole file whose properties are known before its bytes; the file object. Raises GatewayError."""
        check_purpose(purpose)
        async with await self._library.begin_upload(user) as upload:
            await upload.take(pieces)
            return file_object(await upload.finish(clean_filename(filename), purpose, kept_s))

    @property
    def library(self) -> BatchLibrary:
        return self._library

    # --- everything else ----------------------------------------------------------------------------------------------

    async def handle(self, request: PlainRequest) -> PlainResponse:
        """From a client of this gateway. Raises GatewayError."""
        if request.path in (FILES, BATCHES) and request.method in ("GET", "HEAD"):
            return await self._list(request)
        owner = self._owner(self._object(request))
        if owner is None:
            return await self.handle_here(request)
        return await ask_peer(self._mesh, owner, self._name_of(owner), request)

    async def handle_peer(self, request: PlainRequest) -> PlainResponse:
        """From another machine, for one of its clients. Raises GatewayError."""
        if not request.user and request.path in (FILES, BATCHES) and request.method == "GET":
            # What was kept without a key is listed to nobody else: its ids are all that protects it.
            return _json({"data": []})
        return await self.handle_here(request)

    async def handle_here(self, request: PlainRequest) -> PlainResponse:
        """Of what this machine keeps. Raises GatewayError."""
        method = "GET" if request.method == "HEAD" else request.method
        kind, _, rest = request.path.removeprefix("/v1/").partition("/")
        name, _, deed = rest.partition("/")
        if not rest:
            return await (self._list_here(request) if method == "GET" else self._create(request))
        if kind == "files":
            return await self._file(request, method, known_id(name, FILE).text, deed)
        return await self._batch(request, method, known_id(name, BATCH).text, deed)

    async def _file(self, request: PlainRequest, method: str, file_id: str, deed: str) -> PlainResponse:
        library, user = self._library, request.user
        if method == "DELETE" and not deed:
            await library.delete_file(user, file_id)
            return _json({"id": file_id, "object": "file", "deleted": True})
        if method == "GET" and not deed:
            return _json(file_object(await library.file(user, file_id)))
        if method == "GET" and deed == "content":
            file = await library.file(user, file_id)
            return PlainResponse(content_type=JSON_LINES, pieces=library.content(file), length=file.size_bytes)
        raise method_not_allowed(method, request.path, "GET, DELETE")

    async def _batch(self, request: PlainRequest, method: str, batch_id: str, deed: str) -> PlainResponse:
        if method == "GET" and not deed:
            return _json(self._shown(await self._library.batch(request.user, batch_id)))
        if method == "POST" and deed == "cancel":
            batch = await self._library.cancel(request.user, batch_id)
            self._runner.wake(batch_id)
            return _json(self._shown(batch))
        if method == "GET" and deed == "results":
            return await self._results(request, batch_id)
        if deed not in ("", "cancel", "results"):
            raise path_not_found(request.method, request.path)
        raise method_not_allowed(method, request.path, "POST" if deed == "cancel" else "GET")

    async def _results(self, request: PlainRequest, batch_id: str) -> PlainResponse:
        """covey's own: answers in the order in which they came, from a sequence number on, with the batch."""
        given = parse_qs(request.query, max_num_fields=20).get("after", ["0"])[-1]
        after = int(given) if given.isascii() and given.isdigit() and len(given) < 18 else 0
        # The batch first: one that has ended gets no further answers.
        batch = await self._library.batch(request.user, batch_id)
        found = await self._library.results_after(request.user, batch_id, after)
        lines = [msgspec.Raw(line) for _, line in found]
        content = {"batch": self._shown(batch), "data": lines, LAST_SEQUENCE: found[-1][0] if found else after}
        return _json(content)

    async def _create(self, request: PlainRequest) -> PlainResponse:
        if request.path != BATCHES:
            raise method_not_allowed(request.method, request.path, "GET, POST")
        batch = await self._library.create(request.user, read_batch_wish(request.body))
        self._runner.add(batch)
        return _json(self._shown(batch))

    def _shown(self, batch: Batch) -> dict[str, Any]:
        return batch_object(batch, self._name, self._runner.waits_for(batch.id))

    # --- whose it is --------------------------------------------------------------------------------------------------

    def _object(self, request: PlainRequest) -> ObjectId | None:
        """What the request is about; None where that is not one thing."""
        if request.path == BATCHES:
            return read_batch_wish(request.body).input_file if request.method == "POST" else None
        kind, _, rest = request.path.removeprefix("/v1/").partition("/")
        return known_id(rest.partition("/")[0], FILE if kind == "files" else BATCH) if rest else None

    def _owner(self, object_id: ObjectId | None) -> NodeId | None:
        """None for this machine. Raises GatewayError where the owner is no machine of the pool, or not there."""
        view = self._mesh.view()
        if object_id is None or object_id.owned_by(view.self_id):
            return None
        owner = owner_among(object_id, view.members)
        if owner is None:
            raise owner_unreachable(f"{object_id.owner}...")
        if not view.members[owner].reachable:
            raise owner_unreachable(self._name_of(owner))
        return owner

    def _name_of(self, node_id: NodeId) -> str:
        member = self._mesh.view().members.get(node_id)
        return node_id[:8] if member is None else member.facts.name

    # --- lists --------------------------------------------------------------------------------------------------------

    async def _list_here(self, request: PlainRequest) -> PlainResponse:
        kind = FILE if request.path == FILES else BATCH
        query = read_page_query(kind, request.query)
        if kind == FILE:
            found = [file_object(file) for file in await self._library.file_page(request.user, query)]
        else:
            found = [self._shown(batch) for batch in await self._library.batch_page(request.user, query)]
        return _json({"data": found})

    async def _list(self, request: PlainRequest) -> PlainResponse:
        """One page over all machines that can be reached."""
        query = read_page_query(FILE if request.path == FILES else BATCH, request.query)
        request = replace(request, method="GET")
        view = self._mesh.view()
        others = [n for n, m in view.members.items() if m.reachable and n != view.self_id] if request.user else []
        asked = [self._listed_by(node_id, request) for node_id in others[:LIST_MACHINES_MAX]]
        own, *theirs = await asyncio.gather(self._listed_here(request), *asked)
        return _json(page([each for listed in (own, *theirs) for each in listed], query))

    async def _listed_here(self, request: PlainRequest) -> list[dict[str, Any]]:
        return _data((await self._list_here(request)).body)

    async def _listed_by(self, node_id: NodeId, request: PlainRequest) -> list[dict[str, Any]]:
        """Nothing where the machine does not answer in time: a list is of what can be reached."""
        try:
            async with asyncio.timeout(LIST_WAIT_S):
                response = await ask_peer(self._mesh, node_id, "", request)
                return _data(await whole_body(response, LIST_BYTES_MAX)) if response.status == 200 else []
        except (GatewayError, TimeoutError):
            return []


async def whole_body(response: PlainResponse, most: int) -> bytes:
    """Of an answer that may come in pieces. Raises GatewayError."""
    if response.pieces is None:
        return response.body
    whole = bytearray()
    async for piece in response.pieces:
        whole += piece
        if len(whole) > most:
            await response.pieces.aclose()
            raise object_not_found("file", "")
    return bytes(whole)


def _data(body: bytes) -> list[dict[str, Any]]:
    try:
        found = msgspec.json.decode(body, type=dict[str, list[dict[str, Any]]])["data"]
    except (msgspec.DecodeError, KeyError):
        return []
    return [each for each in found if isinstance(each.get("id"), str)]


def _json(value: object) -> PlainResponse:
    return PlainResponse(body=msgspec.json.encode(value))
