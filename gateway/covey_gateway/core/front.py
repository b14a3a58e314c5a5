"""The front door's contract: what an edge (HTTP, gRPC) hands in, and what it is handed back.

Edges know their protocol and nothing of the pool; the request runner (covey_gateway.io.runner) knows the pool and
nothing of protocols. Every outcome, refusals too, comes back as an HTTP status with an OpenAI-shaped body, so that an
edge has one path only.
"""

from __future__ import annotations

from typing import Protocol

from covey_mesh.core.exchange import Failure
from covey_mesh.core.frozen import frozen
from covey_mesh.core.names import NodeId

DEADLINE_MS_MAX = 24 * 3600 * 1000
"""A later deadline is a client's mistake."""


@frozen
class IncomingRequest:
    """One client request. `body` is JSON as it came; `user` is the key's owner ("" on loopback).

    `deadline_s` is time left; None: no deadline. `priority`: 0 interactive, 1 normal, 2 batch; None: as the body's
    `service_tier` says. The runner bounds it by what the key may use.
    """

    path: str
    body: bytes
    user: str = ""
    priority: int | None = None
    deadline_s: float | None = None


@frozen
class AnswerHead:
    """Precedes the body. `node_id` is None where no machine was involved (a refusal), or several: `parts` says into
    how many the request was cut (0: not at all), and `node_name` has all names known by then."""

    status: int
    content_type: str
    request_id: str
    model: str = ""
    node_id: NodeId | None = None
    node_name: str = ""
    attempts: int = 0
    why: str = ""
    retry_after_s: int = 0
    parts: int = 0


class ClientSink(Protocol):
    """The client's side of one request; called on the event loop's thread, never from inside `submit`. A sink derives
    from this one unless it has a `whole` of its own."""

    __slots__ = ()

    def head(self, head: AnswerHead) -> None:
        """Once, first."""

    def data(self, chunk: bytes) -> None:
        """Body bytes, as the engine wrote them."""

    def end(self, failure: Failure | None) -> None:
        """Once, last. A failure after `head` means that the body is incomplete: the edge ends it in a way that shows
        so. An event stream already shows it: its final error event was sent as data, and the edge ends it as ever."""

    def whole(self, head: AnswerHead, body: bytes) -> None:
        """A complete answer at once, in place of the three calls: nothing was called before it, nothing is after."""
        self.head(head)
        if body:
            self.data(body)
        self.end(None)


class ActiveRequest(Protocol):
    """A request in flight, held by the edge."""

    @property
    def request_id(self) -> str: ...

    def cancel(self) -> None:
        """The client is gone: abort the engine's work; nothing more is called on the sink."""

    def pause(self) -> None:
        """The client reads slowly."""

    def resume(self) -> None: ...


class FrontDoor(Protocol):
    """What every edge calls."""

    def submit(self, request: IncomingRequest, sink: ClientSink) -> ActiveRequest: ...
