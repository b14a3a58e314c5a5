"""Asking another machine of the pool about files and batches that it keeps, over the links' request exchange.

One path of its own, PEER_PATH, carries the question as JSON; the answer is an HTTP answer like any other, with the
links' flow control, so that a large file passes through without being held. The client's own key travels along and is
checked here: a machine can ask for nobody whose key it has not been shown. Not here: what is answered (door.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

import msgspec

from covey_gateway.core.errors import JSON, Code, GatewayError, forbidden, internal, unavailable
from covey_gateway.core.keys import bearer_key
from covey_gateway.core.pages import PlainRequest, PlainResponse
from covey_mesh.core.exchange import (
    Failure,
    FailureCode,
    ForwardedRequest,
    OpenRequest,
    PiecewiseSink,
    ResponseSink,
    Upstream,
)
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import Mesh

logger = logging.getLogger(__name__)

PEER_PATH = "/covey/peer/batches"
RETRY_AFTER_S = 5
UNREAD_BYTES_MAX = 256 * 1024
QUESTIONS_MAX = 256
"""Of other machines, answered here at once."""

Handle = Callable[[PlainRequest], Awaitable[PlainResponse]]
UserOf = Callable[[str], str | None]
"""The owner of an API key, None for an unknown one."""


class _Question(msgspec.Struct):
    method: str
    path: str
    query: str
    key: str
    body: bytes


_question = msgspec.json.Decoder(_Question)


@dataclass(frozen=True, slots=True)
class PeerHead:
    status: int
    content_type: str


# --- asking -----------------------------------------------------------------------------------------------------------


async def ask_peer(mesh: Mesh, node_id: NodeId, name: str, request: PlainRequest) -> PlainResponse:
    """The owner's answer, passed on as it comes. Raises GatewayError 503 where the owner cannot be reached."""
    # Whoever came without a known key (on loopback) is nobody elsewhere, too.
    key = bearer_key(request.headers.get("authorization", ""), request.headers.get("x-api-key", ""))
    question = _Question(request.method, request.path, request.query, key if request.user else "", request.body)
    asked = PeerAnswer(mesh, node_id, msgspec.json.encode(question))
    try:
        head = await asked.opened()
    except BaseException:
        asked.cancel()
        raise
    if head is None:
        raise owner_unreachable(name)
    return PlainResponse(head.status, head.content_type, pieces=asked.pieces())


def owner_unreachable(name: str) -> GatewayError:
    message = (
        f"This is kept by the machine `{name}`, which cannot be reached now. A batch goes on by itself, from where it "
        "was, once that machine is back; ask again then."
    )
    return unavailable(Code.OWNER_UNREACHABLE, message, RETRY_AFTER_S)


class PeerAnswer(PiecewiseSink):
    """A ResponseSink that a coroutine reads."""

    def __init__(self, mesh: Mesh, node_id: NodeId, body: bytes) -> None:
        self._pieces: deque[bytes] = deque()
        self._held_bytes = 0
        self._paused = False
        self._head: PeerHead | None = None
        self._ended = False
        self._failure: Failure | None = None
        self._wake = asyncio.Event()
        request = ForwardedRequest(f"peer-{secrets.token_hex(6)}", 1, "", PEER_PATH, body, True, 0, 0)
        self._upstream = mesh.open_on(node_id, request, self)

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self._head = PeerHead(status, content_type)
        self._wake.set()

    def data(self, chunk: bytes) -> None:
        self._pieces.append(chunk)
        self._held_bytes += len(chunk)
        if self._held_bytes > UNREAD_BYTES_MAX and not self._paused:
            self._paused = True
            self._upstream.pause()
        self._wake.set()

    def end(self, failure: Failure | None) -> None:
        self._ended, self._failure = True, failure
        self._wake.set()

    def cancel(self) -> None:
        if not self._ended:
            self._ended = True
            self._upstream.cancel()

    async def opened(self) -> PeerHead | None:
        while self._head is None and not self._ended:
            await self._woken()
        return self._head

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Raises GatewayError where the rest does not come."""
        try:
            while True:
                while self._pieces:
                    yield self._take()
                if self._ended:
                    break
                await self._woken()
        finally:
            self.cancel()
        if self._failure is not None:
            raise unavailable(Code.OWNER_UNREACHABLE, "The machine that keeps this was lost on the way.", RETRY_AFTER_S)

    def _take(self) -> bytes:
        piece = self._pieces.popleft()
        self._held_bytes -= len(piece)
        if self._paused and self._held_bytes <= UNREAD_BYTES_MAX // 2:
            self._paused = False
            self._upstream.resume()
        return piece

    async def _woken(self) -> None:
        self._wake.clear()
        await self._wake.wait()


# --- answering --------------------------------------------------------------------------------------------------------


class PeerPort:
    """Takes peers' questions out of what they open here, and leaves the rest to the node."""

    def __init__(self, handle: Handle, user_of: UserOf, others: OpenRequest) -> None:
        self._handle = handle
        self._user_of = user_of
        self._others = others
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """An OpenRequest."""
        if request.path != PEER_PATH:
            return self._others(request, sink)
        answering = _Answering(sink)
        work = self._refuse(answering) if len(self._tasks) >= QUESTIONS_MAX else self._answer(request.body, answering)
        answering.task = task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return answering

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _refuse(self, answering: _Answering) -> None:
        answering.end(Failure(FailureCode.RESOURCE_EXHAUSTED, "too many questions at once; ask again", 1000))

    async def _answer(self, body: bytes, answering: _Answering) -> None:
        try:
            asked = _question.decode(body)
        except (msgspec.DecodeError, RecursionError):
            answering.end(Failure(FailureCode.INTERNAL, "the question is not understood; update covey everywhere"))
            return
        try:
            user = self._user(asked.key)
            request = PlainRequest(asked.method, asked.path, "", asked.query, {}, asked.body, user)
            response = await self._handle(request)
            await answering.send(response)
        except GatewayError as error:
            answering.whole(PlainResponse(error.status, JSON, error.body()))
        except Exception:
            logger.exception("bug in the answer to a peer's question")
            answering.whole(PlainResponse(500, JSON, internal().body()))

    def _user(self, key: str) -> str:
        """Raises GatewayError 403."""
        user = self._user_of(key) if key else ""
        if user is None:
            raise forbidden("The machine that keeps this does not know your key. Add the key to its settings, too.")
        return user


class _Answering:
    """An Upstream: the asker's hold on the answer."""

    def __init__(self, sink: ResponseSink) -> None:
        self.task: asyncio.Task[None] | None = None
        self._sink = sink
        self._free = asyncio.Event()
        self._free.set()
        self._started = False
        self._over = False

    def cancel(self) -> None:
        self._over = True
        if self.task is not None:
            self.task.cancel()

    def pause(self) -> None:
        self._free.clear()

    def resume(self) -> None:
        self._free.set()

    async def send(self, response: PlainResponse) -> None:
        """Raises GatewayError where the pieces break off before the first."""
        if response.pieces is None:
            self.whole(response)
            return
        async with contextlib.aclosing(response.pieces):
            async for piece in response.pieces:
                self._begin(response)
                await self._free.wait()
                self._sink.data(piece)
        self._begin(response)
        self.end(None)

    def whole(self, response: PlainResponse) -> None:
        """A complete answer; after a beginning it can only be broken off."""
        if self._started:
            self.end(Failure(FailureCode.INTERNAL, "the answer broke off; ask again"))
            return
        self._begin(response)
        if response.body:
            self._sink.data(response.body)
        self.end(None)

    def end(self, failure: Failure | None) -> None:
        if not self._over:
            self._over = True
            self._sink.end(failure)

    def _begin(self, response: PlainResponse) -> None:
        if not self._started:
            self._started = True
            self._sink.head(response.status, response.content_type)
