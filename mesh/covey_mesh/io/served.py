"""Attempts that a peer opened here: bodies put together, answers sent as the peer's credit allows.

The bytes of one answer that wait here are bounded: when the credit is used up, or the whole link is congested, the
source is paused; a source that ignores this is cut off, alone. Not here: attempts opened by this machine (opened.py).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, OpenRequest, PiecewiseSink, Upstream
from covey_mesh.core.flow import SendWindow
from covey_mesh.core.limits import (
    LINK_BACKLOG_BYTES_MAX,
    REQUEST_BODY_BYTES_MAX,
    STREAM_WINDOW_BYTES,
    STREAMS_PER_LINK_MAX,
)
from covey_mesh.io.batching import Outbox
from covey_mesh.io.codec_asking import failure_to_wire
from covey_mesh.io.codec_values import PeerProtocolError, text
from covey_mesh.wire.v1 import link_pb2
from covey_mesh.wire.v1.link_pb2 import Item

CONGESTED_BYTES = LINK_BACKLOG_BYTES_MAX // 4
"""With more than this waiting on a link, sources are paused whatever their credit."""

_log = logging.getLogger(__name__)


class ServedAttempt(PiecewiseSink):
    """The node's way to answer (covey_mesh.core.exchange.ResponseSink)."""

    def __init__(self, table: ServedAttempts, opening: link_pb2.RequestOpen) -> None:
        stream_id = opening.stream_id
        self.stream_id = stream_id
        self.upstream: Upstream | None = None
        self.lane = table.outbox.lane(
            lambda chunk: Item(data=link_pb2.ResponseData(stream_id=stream_id, chunk=chunk)), answer_id=stream_id
        )
        self._table = table
        self._window = SendWindow(min(opening.initial_credit_bytes, STREAM_WINDOW_BYTES))
        self._held: deque[memoryview] = deque()
        self._since_pause_bytes = 0
        self._paused = False
        self._first = True
        self._end: Item | None = None
        self._done = False

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        """Leaves with the first bytes, or soon."""
        if self._done:
            return
        head = link_pb2.ResponseHead(stream_id=self.stream_id, status=status, content_type=content_type)
        head.retry_after_s = retry_after_s
        self.lane.put(Item(head=head), urgent=False)
        self._table.wake()

    def data(self, chunk: bytes) -> None:
        """The first bytes of an answer leave at once, later ones with the next batch."""
        if self._done or self._end is not None:
            return
        if self._paused:
            if self._since_pause_bytes > STREAM_WINDOW_BYTES:
                self._cut_off()
                return
            self._since_pause_bytes += len(chunk)
        elif not self._held and not self._table.congested() and self._window.take_all(len(chunk)):
            # Nearly every token: nothing waits, all of it may go.
            self.lane.put_data(chunk, self._first)
            self._first = False
            self._table.wake()
            return
        self._held.append(memoryview(chunk))
        self.pump()

    def end(self, failure: Failure | None) -> None:
        """Follows the bytes that still wait for credit."""
        if self._done or self._end is not None:
            return
        end = link_pb2.ResponseEnd(stream_id=self.stream_id)
        if failure is not None:
            end.failure.CopyFrom(failure_to_wire(failure))
        self._end = Item(end=end)
        self.pump()

    def credit(self, granted_bytes: int) -> None:
        """From the peer."""
        self._window.grant(granted_bytes)
        self.pump()

    def cancel(self) -> None:
        """From the peer, or because the link is gone."""
        if self._done:
            return
        self._finish()
        if self.upstream is not None:
            self.upstream.cancel()

    def pump(self) -> None:
        """Send what credit and congestion allow; pause or resume the source accordingly."""
        if self._done:
            return
        while self._held and not self._table.congested():
            allowed_bytes = self._window.take(len(self._held[0]))
            if allowed_bytes < len(self._held[0]):
                if allowed_bytes:
                    self._send(self._held[0][:allowed_bytes])
                    self._held[0] = self._held[0][allowed_bytes:]
                break
            self._send(self._held.popleft())
        self._throttle()
        if self._end is not None and not self._held and not self._done:
            self.lane.put(self._end, urgent=True)
            self._done = True
            self._table.forget(self)
        self._table.wake()

    def _send(self, part: memoryview) -> None:
        self.lane.put_data(part, urgent=self._first)
        self._first = False

    def _throttle(self) -> None:
        self._table.holding(self, bool(self._held))
        if bool(self._held) == self._paused or self.upstream is None or self._end is not None:
            return
        self._paused, self._since_pause_bytes = not self._paused, 0
        if self._paused:
            self.upstream.pause()
        else:
            self.upstream.resume()

    def _cut_off(self) -> None:
        """Our own node's fault, of one attempt: it goes on sending after `pause`."""
        _log.error("a source ignored pause and was cut off", extra={"stream_id": self.stream_id})
        upstream = self.upstream
        self._table.refuse(self.stream_id, Failure(FailureCode.INTERNAL, "the engine's answer was not throttled"))
        self._finish()
        if upstream is not None:
            upstream.cancel()

    def _finish(self) -> None:
        self._done = True
        self._held.clear()
        self.lane.discard()
        self._table.forget(self)


class ServedAttempts:
    """All attempts that the peer of one link opened here. `assembling_bytes_max` bounds the bodies that are coming."""

    def __init__(
        self,
        outbox: Outbox,
        handler: Callable[[], OpenRequest | None],
        wake: Callable[[], None],
        assembling_bytes_max: int = LINK_BACKLOG_BYTES_MAX,
    ) -> None:
        self._assembling_bytes_max = assembling_bytes_max
        self.outbox = outbox
        self.wake = wake
        self._handler = handler
        self._attempts: dict[int, ServedAttempt] = {}
        self._assembling: dict[int, tuple[link_pb2.RequestOpen, bytearray]] = {}
        self._assembling_bytes = 0
        self._waiting: dict[int, ServedAttempt] = {}
        self._last_id = 0

    def __len__(self) -> int:
        return len(self._attempts) + len(self._assembling)

    def receive(self, case: str, item: Item) -> None:
        """Raises PeerProtocolError."""
        if case == "open":
            self._open(item.open)
        elif case == "body":
            self._body(item.body)
        elif case == "cancel":
            self._cancel(item.cancel.stream_id)
        else:
            attempt = self._attempts.get(item.credit.stream_id)
            if attempt is not None:
                attempt.credit(item.credit.bytes)

    def congested(self) -> bool:
        return self.outbox.waiting_bytes > CONGESTED_BYTES

    def holding(self, attempt: ServedAttempt, waits: bool) -> None:
        """Remember who has bytes that did not fit."""
        if waits:
            self._waiting[attempt.stream_id] = attempt
        else:
            self._waiting.pop(attempt.stream_id, None)

    def relieve(self) -> None:
        """The link has drained: those who waited may go on."""
        if self._waiting and self.outbox.waiting_bytes < CONGESTED_BYTES // 2:
            for attempt in list(self._waiting.values()):
                attempt.pump()

    def refuse(self, stream_id: int, failure: Failure) -> None:
        """End an attempt that this machine does not serve."""
        end = link_pb2.ResponseEnd(stream_id=stream_id, failure=failure_to_wire(failure))
        self.outbox.put_control(Item(end=end), urgent=True)
        self.wake()

    def forget(self, attempt: ServedAttempt) -> None:
        self._attempts.pop(attempt.stream_id, None)
        self._waiting.pop(attempt.stream_id, None)

    def cancel_all(self) -> None:
        """The link is gone: nobody reads these answers."""
        self._assembling.clear()
        for attempt in list(self._attempts.values()):
            attempt.cancel()

    def _open(self, opening: link_pb2.RequestOpen) -> None:
        if opening.stream_id <= self._last_id:
            raise PeerProtocolError(f"stream id {opening.stream_id} after {self._last_id}")
        self._last_id = opening.stream_id
        total_bytes = max(opening.body_bytes, len(opening.body))
        if total_bytes > REQUEST_BODY_BYTES_MAX:
            raise PeerProtocolError(f"a request body of {total_bytes} bytes")
        if len(self) >= STREAMS_PER_LINK_MAX:
            message = f"{STREAMS_PER_LINK_MAX} requests from one machine are in flight here"
            self.refuse(opening.stream_id, Failure(FailureCode.RESOURCE_EXHAUSTED, message, 1000))
        elif len(opening.body) == total_bytes:
            self._start(opening, opening.body)
        elif self._assembling_bytes + total_bytes > self._assembling_bytes_max:
            message = "too many large requests are on their way here"
            self.refuse(opening.stream_id, Failure(FailureCode.RESOURCE_EXHAUSTED, message, 1000))
        else:
            self._assembling_bytes += total_bytes
            self._assembling[opening.stream_id] = (opening, bytearray(opening.body))

    def _body(self, piece: link_pb2.RequestBody) -> None:
        entry = self._assembling.get(piece.stream_id)
        if entry is None:
            return
        opening, body = entry
        body += piece.chunk
        if len(body) > opening.body_bytes:
            raise PeerProtocolError("a request body longer than announced")
        if len(body) == opening.body_bytes:
            self._drop_assembly(piece.stream_id)
            self._start(opening, bytes(body))

    def _cancel(self, stream_id: int) -> None:
        self._drop_assembly(stream_id)
        attempt = self._attempts.get(stream_id)
        if attempt is not None:
            attempt.cancel()

    def _drop_assembly(self, stream_id: int) -> None:
        entry = self._assembling.pop(stream_id, None)
        if entry is not None:
            self._assembling_bytes -= entry[0].body_bytes

    def _start(self, opening: link_pb2.RequestOpen, body: bytes) -> None:
        handler = self._handler()
        if handler is None:
            self.refuse(opening.stream_id, Failure(FailureCode.NO_MODEL, "this machine serves no models"))
            return
        request, attempt = _request(opening, body), ServedAttempt(self, opening)
        self._attempts[opening.stream_id] = attempt
        try:
            attempt.upstream = handler(request, attempt)
        except Exception:  # noqa: BLE001 - one request's failure must not touch the others on the link; reported loudly
            _log.exception("opening an attempt failed", extra={"request_id": opening.request_id})
            self.forget(attempt)
            self.refuse(opening.stream_id, Failure(FailureCode.INTERNAL, "the machine could not start the request"))


def _request(opening: link_pb2.RequestOpen, body: bytes) -> ForwardedRequest:
    """Raises PeerProtocolError."""
    return ForwardedRequest(
        request_id=text(opening.request_id, "a request id"),
        attempt=opening.attempt,
        model=text(opening.model, "a model's name"),
        path=text(opening.path, "a path"),
        body=body,
        streaming=opening.streaming,
        prompt_tokens=opening.prompt_tokens,
        max_output_tokens=opening.max_output_tokens,
        deadline_ms=opening.deadline_ms,
        node_id=text(opening.node_id, "a machine"),
    )
