"""The data path's contract: one attempt of one request, from whoever holds the client to whoever holds the engine.

The same three small interfaces serve an engine in this process's machine and one across a link, so that the gateway
does not know the difference. Callbacks rather than queues: a chunk of tokens crosses the agent without being parsed
and without waking a task.

Rules: after `open` returns, the sink gets `head` once (unless the attempt fails first), then any number of `data`,
then `end` exactly once; nothing after `end`, and nothing at all after `cancel` returned. Calls are made from the
event loop's thread, never from inside `open`. `pause` asks the source to stop soon: bytes on their way still arrive
(bounded by covey_mesh.core.limits.STREAM_WINDOW_BYTES).

An answer that is complete in one piece may come as one `whole` in place of `head`, `data` and `end(None)`: only where
nothing was called before it, never after `cancel`, and nothing after it. The attempt is over when it is called:
`cancel`, `pause` and `resume` do nothing from then on, from inside it neither, so that a sink which takes it apart and
does not want the rest must ignore that itself. Whoever gains nothing by it inherits PiecewiseSink.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from covey_mesh.core.frozen import frozen


class FailureCode(enum.Enum):
    """Why an attempt ended without a complete answer. The value is the name on the wire."""

    NO_MODEL = "no_model"
    RESOURCE_EXHAUSTED = "resource_exhausted"
    DRAINING = "draining"
    ENGINE_FAILED = "engine_failed"
    LINK_LOST = "link_lost"
    CANCELLED = "cancelled"
    STALE_ATTEMPT = "stale_attempt"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    INTERNAL = "internal"
    STALLED = "stalled"


@frozen
class Failure:
    """An attempt's end that is not an answer. `message` is for people and says what to do next."""

    code: FailureCode
    message: str
    retry_after_ms: int = 0


@frozen
class ForwardedRequest:
    """One attempt of one request. `body` is the client's own JSON, untouched. `node_id`: only from a gateway process to
    its agent, the machine to open it on."""

    request_id: str
    attempt: int
    model: str
    path: str
    body: bytes
    streaming: bool
    prompt_tokens: int
    max_output_tokens: int
    deadline_ms: int = 0
    node_id: str = ""


@frozen
class Usage:
    """Token counts that an answer told of itself; 0: not told. `cached_tokens` of the prompt were no work."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int


class ResponseSink(Protocol):
    """Receives one attempt's answer."""

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        """The engine's HTTP status; 4xx is an answer like any other and goes to the client as it is."""

    def data(self, chunk: bytes) -> None:
        """Body bytes as the engine wrote them, with no alignment to events or tokens."""

    def end(self, failure: Failure | None) -> None:
        """Once, last. None: the answer is complete."""

    def whole(self, status: int, content_type: str, retry_after_s: int, body: bytes, usage: Usage | None) -> None:
        """The complete answer at once. `usage`: as the machine read it in `body`; None where nobody looked or none was
        found, so that whoever needs it reads the body itself."""


class PiecewiseSink:
    """For sinks to inherit that take a whole answer like any other, piece by piece."""

    __slots__ = ()

    def whole(
        self: ResponseSink, status: int, content_type: str, retry_after_s: int, body: bytes, usage: Usage | None
    ) -> None:
        """See ResponseSink."""
        self.head(status, content_type, retry_after_s)
        if body:
            self.data(body)
        self.end(None)


class Upstream(Protocol):
    """An attempt in flight, held by whoever opened it."""

    def cancel(self) -> None:
        """Abort; the engine stops work on it within a second. Safe to call twice or after the end."""

    def pause(self) -> None:
        """The reader is slow: stop sending soon."""

    def resume(self) -> None:
        """Undo `pause`."""


OpenRequest = Callable[[ForwardedRequest, ResponseSink], Upstream]
"""Starts an attempt on one known machine."""
