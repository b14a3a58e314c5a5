"""Attempts on other machines: waiting for a link where there is none yet, and knowing which links are in use.

Only `end` and `cancel` are intercepted; the bytes between pass straight to the sink. Not here: carrying them
(io/link.py), choosing the machine (covey_scheduler, covey_gateway).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, PiecewiseSink, ResponseSink, Upstream
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import Link

WAITING_MAX = 1024
"""Attempts that wait for a link, over all machines; the next one ends as LINK_LOST at once."""

IN_USE_LINGER_S = 2.0
"""A link counts as in use this long after its last attempt, so that requests one by one do not toggle it."""


class Attempt(PiecewiseSink):
    """One attempt: the upstream of whoever opened it, and the sink of the link that will carry it."""

    __slots__ = ("_ended", "_on_end", "_paused", "_sink", "data", "head", "node_id", "request", "timer", "upstream")

    def __init__(
        self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink, on_end: Callable[[Attempt], None]
    ) -> None:
        self.node_id = node_id
        self.request = request
        self.head = sink.head
        self.data = sink.data
        self._sink = sink
        self._on_end = on_end
        self._ended = False
        self._paused = False
        self.upstream: Upstream | None = None
        self.timer: asyncio.TimerHandle | None = None

    def start(self, link: Link) -> None:
        """The link is there."""
        if self._ended:
            return
        self.upstream = link.open(self.request, self)
        if self._paused:
            self.upstream.pause()

    def end(self, failure: Failure | None) -> None:
        """From the link, or for want of one."""
        if not self._ended:
            self._finish()
            self._sink.end(failure)

    def cancel(self) -> None:
        """See Upstream."""
        if not self._ended:
            self._finish()
            if self.upstream is not None:
                self.upstream.cancel()

    def pause(self) -> None:
        """See Upstream."""
        self._paused = True
        if self.upstream is not None and not self._ended:
            self.upstream.pause()

    def resume(self) -> None:
        """See Upstream."""
        self._paused = False
        if self.upstream is not None and not self._ended:
            self.upstream.resume()

    def _finish(self) -> None:
        self._ended = True
        if self.timer is not None:
            self.timer.cancel()
        self._on_end(self)


class Attempts:
    """All attempts from this machine to others. `in_use` is told when the first begins and after the last ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wait_s: float, in_use: Callable[[NodeId, bool], None]) -> None:
        self._loop = loop
        self._wait_s = wait_s
        self._in_use = in_use
        self._counts: dict[NodeId, int] = {}
        self._lingering: dict[NodeId, asyncio.TimerHandle] = {}
        self._waiting: dict[NodeId, list[Attempt]] = {}
        self._waiting_count = 0

    def open(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink, link: Link | None) -> Upstream:
        """Start at once over `link`, or wait for one, `wait_s` at most."""
        attempt = Attempt(node_id, request, sink, self._ended)
        self._began(node_id)
        if link is not None:
            attempt.start(link)
        elif self._waiting_count >= WAITING_MAX:
            self._fail_soon(attempt, "too many requests wait for a link")
        else:
            self._waiting.setdefault(node_id, []).append(attempt)
            self._waiting_count += 1
            attempt.timer = self._loop.call_later(self._wait_s, self._fail, attempt, "no link to the machine in time")
        return attempt

    def unknown(self, node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """Nobody knows where that machine is."""
        attempt = Attempt(node_id, request, sink, lambda _: None)
        self._fail_soon(attempt, "the machine is not known here")
        return attempt

    def linked(self, node_id: NodeId, link: Link) -> None:
        """Those who waited for this link go on."""
        waiting = self._waiting.pop(node_id, [])
        self._waiting_count -= len(waiting)
        for attempt in waiting:
            if attempt.timer is not None:
                attempt.timer.cancel()
                attempt.timer = None
            attempt.start(link)

    def stop(self) -> None:
        """Whoever still waits is told so."""
        for waiting in list(self._waiting.values()):
            for attempt in list(waiting):
                self._fail(attempt, "this machine is stopping")
        for timer in self._lingering.values():
            timer.cancel()

    def _fail_soon(self, attempt: Attempt, why: str) -> None:
        self._loop.call_soon(self._fail, attempt, why)

    def _fail(self, attempt: Attempt, why: str) -> None:
        attempt.end(Failure(FailureCode.LINK_LOST, f"{why}; the request can be tried on another machine"))

    def _began(self, node_id: NodeId) -> None:
        count = self._counts.get(node_id, 0)
        self._counts[node_id] = count + 1
        lingering = self._lingering.pop(node_id, None)
        if lingering is not None:
            lingering.cancel()
        elif count == 0:
            self._in_use(node_id, True)

    def _ended(self, attempt: Attempt) -> None:
        waiting = self._waiting.get(attempt.node_id, [])
        if attempt in waiting:
            waiting.remove(attempt)
            self._waiting_count -= 1
        self._counts[attempt.node_id] -= 1
        if self._counts[attempt.node_id] == 0:
            del self._counts[attempt.node_id]
            linger = self._loop.call_later(IN_USE_LINGER_S, self._lingered, attempt.node_id)
            self._lingering[attempt.node_id] = linger

    def _lingered(self, node_id: NodeId) -> None:
        del self._lingering[node_id]
        self._in_use(node_id, False)
