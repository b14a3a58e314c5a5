"""HTTP/1.1 to one engine over its Unix socket: the node's half of the token path, as a bounded pool of connections.

One connection serves one request at a time and is kept alive; closing it is how a request is aborted (vLLM notices
within a tenth of a second). Not here: the bytes of one connection (engine_connection.py).
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import lru_cache

from covey_mesh.core.exchange import Failure, FailureCode, ResponseSink
from covey_mesh.io.turn_writer import Turn
from covey_node.core.known_heads import KnownHeads
from covey_node.io.engine_connection import EngineConnection, EngineRequest

__all__ = ["EngineClient", "EngineRequest"]

IDLE_CONNECTIONS_MAX = 64


class EngineClient:
    """A bounded pool of connections to one Unix socket. Requests beyond `connections_max` wait in order of arrival
    (admission bounds how many there can be)."""

    def __init__(self, socket_path: str, connections_max: int) -> None:
        self.known_heads = KnownHeads()
        self.turn = Turn(lambda callback: asyncio.get_running_loop().call_soon(callback))
        self._path = socket_path
        self._connections_max = connections_max
        self._idle: list[EngineConnection] = []
        self._open = 0
        self._waiting: deque[EngineRequest] = deque()
        self._active: set[EngineRequest] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._closed = False
        self._drained = asyncio.Event()

    @property
    def active(self) -> int:
        return len(self._active)

    def open(self, method: str, path: str, body: bytes, sink: ResponseSink) -> EngineRequest:
        """Send one request; the sink is called later, from the event loop."""
        wire = b"%b%d\r\n\r\n%b" % (_head(method, path), len(body), body)
        request = EngineRequest(self, wire, sink)
        self._active.add(request)
        if self._idle and not self._waiting and self._idle[-1].usable:
            self._idle.pop().send(request)
            return request
        self._waiting.append(request)
        if self._closed:
            asyncio.get_running_loop().call_soon(self._fail, request, "the engine was stopped")
        else:
            self._pump()
        return request

    async def drained(self, timeout_s: float) -> bool:
        """Waits until no request is in flight; False if some still were after `timeout_s`."""
        if self._active and timeout_s > 0:
            self._drained.clear()
            try:
                await asyncio.wait_for(self._drained.wait(), timeout_s)
            except TimeoutError:
                return False
        return not self._active

    def close(self) -> None:
        """Break every connection; requests in flight end with ENGINE_FAILED, on the next turn of the loop."""
        self._closed = True
        for task in self._connecting:
            task.cancel()
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        loop = asyncio.get_running_loop()
        for request in list(self._active):
            if request.connection is not None:
                request.connection.abort()
            else:
                loop.call_soon(self._fail, request, "the engine was stopped")

    # --- engine_connection.Pool --------------------------------------------------------------------------------------

    def forget(self, request: EngineRequest) -> None:
        """The request is over."""
        self._active.discard(request)
        if not self._active:
            self._drained.set()
        if self._waiting and request.connection is None and request in self._waiting:
            self._waiting.remove(request)

    def answered(self, request: EngineRequest, connection: EngineConnection) -> None:
        """The request is over, and its connection may serve the next one."""
        active = self._active
        active.discard(request)
        if not active:
            self._drained.set()
        if self._waiting or len(self._idle) >= IDLE_CONNECTIONS_MAX or self._closed:
            self.released(connection)
        else:
            self._idle.append(connection)

    def released(self, connection: EngineConnection) -> None:
        """The connection may serve the next request."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        elif len(self._idle) >= IDLE_CONNECTIONS_MAX or self._closed:
            connection.abort()
        else:
            self._idle.append(connection)

    def lost(self, connection: EngineConnection) -> None:
        """The connection is gone."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        self._pump()

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while self._waiting and self._idle:
            connection = self._idle.pop()
            if connection.usable:
                connection.send(self._waiting.popleft())
        while len(self._connecting) < len(self._waiting) and self._open < self._connections_max:
            self._open += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(
                lambda: EngineConnection(self), self._path
            )
        except OSError as error:
            self._open -= 1
            if self._waiting:
                why = f"the engine does not accept connections: {error.strerror or error}"
                self._fail(self._waiting.popleft(), why)
            return
        except asyncio.CancelledError:
            self._open -= 1
            raise
        self.released(connection)

    def _fail(self, request: EngineRequest, why: str) -> None:
        self.forget(request)
        request.end(Failure(FailureCode.ENGINE_FAILED, why))


@lru_cache(maxsize=64)
def _head(method: str, path: str) -> bytes:
    """Everything before the body's length."""
    assert path.isprintable(), "a path that would begin another request"
    assert " " not in path, "a path that would end the request line"
    head = f"{method} {path} HTTP/1.1\r\nHost: engine\r\nContent-Type: application/json\r\nContent-Length: "
    return head.encode("ascii")
