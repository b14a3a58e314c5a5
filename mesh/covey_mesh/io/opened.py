"""Attempts that this machine opened on a peer: their ids, their answers, and what becomes of them when the link ends.

One attempt's cancel or failure never touches another. Ids count up and are never used again on one link. Not here:
attempts that the peer opened (served.py), writing (link.py).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink
from covey_mesh.core.flow import ReceiveWindow
from covey_mesh.core.limits import LINK_BACKLOG_BYTES_MAX, STREAM_WINDOW_BYTES, STREAMS_PER_LINK_MAX
from covey_mesh.io.batching import Lane, Outbox
from covey_mesh.io.codec_asking import failure_from_wire
from covey_mesh.io.codec_values import PeerProtocolError, text
from covey_mesh.wire.v1 import link_pb2
from covey_mesh.wire.v1.link_pb2 import Item

BODY_INLINE_BYTES_MAX = 64 * 1024
"""A larger request body follows its RequestOpen in pieces."""

GRANT_AT_BYTES = STREAM_WINDOW_BYTES // 2
"""Not asked for a grant as long as more than this is open (covey_mesh.core.flow.ReceiveWindow.to_grant)."""

RETRY_AFTER_S_MAX = 3600
"""Longest wait that another machine may ask a client for."""

_NO_ANSWERS = frozenset({204, 205})
"""Answers without a body, as 1xx and 304 are: a client would take a body that follows for its next answer."""

_CallLater = Callable[[Callable[[], None]], object]

_log = logging.getLogger(__name__)


class OpenedAttempt:
    """The opener's hold on one attempt (covey_mesh.core.exchange.Upstream), and the way of its answer to the sink."""

    def __init__(self, table: OpenedAttempts, stream_id: int, sink: ResponseSink, lane: Lane, body_bytes: int) -> None:
        self.stream_id = stream_id
        self.body_bytes = body_bytes
        self.lane = lane
        self._table = table
        self._sink = sink
        self._window = ReceiveWindow()
        self._head_seen = False
        self._done = False

    def cancel(self) -> None:
        """Abort; the sink hears nothing more."""
        if not self._done:
            self._done = True
            self._table.abandon(self)

    def pause(self) -> None:
        """Grant nothing more: the sender stops when its credit is used up."""
        self._window.paused = True

    def resume(self) -> None:
        self._window.paused = False
        self._grant()

    def on_head(self, head: link_pb2.ResponseHead) -> None:
        if self._done:
            return
        if self._head_seen:
            self._broken("a second head")
            return
        if not _is_answer(head.status):
            self._broken(f"status {head.status}")
            return
        self._head_seen = True
        retry_after_s = min(head.retry_after_s, RETRY_AFTER_S_MAX)
        self._sink.head(head.status, text(head.content_type, "a content type"), retry_after_s)

    def on_data(self, chunk: bytes) -> None:
        if self._done:
            return
        if not self._head_seen or not self._window.receive(len(chunk)):
            self._broken("bytes before the head" if not self._head_seen else "more bytes than it was granted")
            return
        self._sink.data(chunk)
        if self._window.open_bytes <= GRANT_AT_BYTES:
            self._grant()

    def on_end(self, end: link_pb2.ResponseEnd) -> None:
        if self._done:
            return
        if end.HasField("failure"):
            self.finish(failure_from_wire(end.failure))
        elif not self._head_seen:
            self._broken("an end without a head")
        else:
            self.finish(None)

    def finish(self, failure: Failure | None) -> None:
        """Tell the sink that it is over; later calls change nothing."""
        if not self._done:
            self._done = True
            self._table.forget(self)
            self._sink.end(failure)

    def _grant(self) -> None:
        granted_bytes = 0 if self._done else self._window.to_grant()
        if granted_bytes:
            self._table.grant(self.stream_id, granted_bytes)

    def _broken(self, what: str) -> None:
        """The peer mishandled this one attempt; the others on the link go on."""
        if not self._done:
            self._done = True
            self._table.abandon(self)
            self._sink.end(Failure(FailureCode.INTERNAL, f"the other machine sent {what}; please report this"))


class OpenedAttempts:
    """All attempts opened on one link. `call_later` runs a callback on the next turn of the loop; `bodies_bytes_max`
    bounds the bodies of those in flight."""

    def __init__(
        self,
        outbox: Outbox,
        call_later: _CallLater,
        wake: Callable[[], None],
        bodies_bytes_max: int = LINK_BACKLOG_BYTES_MAX,
    ) -> None:
        self._bodies_bytes_max = bodies_bytes_max
        self._outbox = outbox
        self._call_later = call_later
        self._wake = wake
        self._attempts: dict[int, OpenedAttempt] = {}
        self._next_id = 1
        self._body_bytes = 0
        self.closed = False

    def __len__(self) -> int:
        return len(self._attempts)

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> OpenedAttempt:
        """Start an attempt on the peer; a refusal reaches the sink on the next turn, never from inside this call."""
        stream_id, self._next_id = self._next_id, self._next_id + 1
        lane = self._outbox.lane(lambda chunk: Item(body=link_pb2.RequestBody(stream_id=stream_id, chunk=chunk)))
        attempt = OpenedAttempt(self, stream_id, sink, lane, len(request.body))
        refusal = self._refusal(len(request.body))
        self._attempts[stream_id] = attempt
        self._body_bytes += attempt.body_bytes
        if refusal is not None:
            self._call_later(functools.partial(attempt.finish, refusal))
            return attempt
        inline = request.body if len(request.body) <= BODY_INLINE_BYTES_MAX else b""
        lane.put(Item(open=_open_item(stream_id, request, inline)), urgent=True)
        if not inline and request.body:
            lane.put_data(request.body, urgent=True)
        self._wake()
        return attempt

    def data(self, data: link_pb2.ResponseData) -> None:
        """Bytes of an answer: `receive` for what comes most. Raises PeerProtocolError."""
        attempt = self._attempts.get(data.stream_id)
        if attempt is None:
            return
        try:
            attempt.on_data(data.chunk)
        except PeerProtocolError:
            raise
        except Exception:  # noqa: BLE001 - as in `receive`
            self._reader_failed(attempt)

    def chunks(self, packed: link_pb2.ResponseChunks) -> None:
        """The same of several answers. Raises PeerProtocolError."""
        stream_ids, chunks = packed.stream_ids, packed.chunks
        if len(stream_ids) != len(chunks):
            raise PeerProtocolError(f"{len(chunks)} chunks for {len(stream_ids)} answers")
        attempts = self._attempts
        for stream_id, chunk in zip(stream_ids, chunks, strict=True):
            attempt = attempts.get(stream_id)
            if attempt is None:
                continue
            try:
                attempt.on_data(chunk)
            except PeerProtocolError:
                raise
            except Exception:  # noqa: BLE001 - as in `receive`
                self._reader_failed(attempt)

    def receive(self, case: str, item: Item) -> None:
        """An answer's item; one for an attempt that is over is ignored. Raises PeerProtocolError."""
        if case == "data":
            self.data(item.data)
            return
        attempt = self._attempts.get(getattr(item, case).stream_id)
        if attempt is None:
            return
        try:
            if case == "head":
                attempt.on_head(item.head)
            else:
                attempt.on_end(item.end)
        except PeerProtocolError:
            raise
        except Exception:  # noqa: BLE001 - one reader's bug must not touch the others on the link; reported loudly
            self._reader_failed(attempt)

    def _reader_failed(self, attempt: OpenedAttempt) -> None:
        _log.exception("the reader of an answer failed", extra={"stream_id": attempt.stream_id})
        attempt.cancel()

    def grant(self, stream_id: int, granted_bytes: int) -> None:
        """Let the sender send that much more."""
        credit = link_pb2.RequestCredit(stream_id=stream_id, bytes=granted_bytes)
        self._outbox.put_control(Item(credit=credit), urgent=False)
        self._wake()

    def abandon(self, attempt: OpenedAttempt) -> None:
        """Stop it on the peer as well, unless the peer never heard of it."""
        started = attempt.lane.started
        self.forget(attempt)
        if started and not self.closed:
            self._outbox.put_control(Item(cancel=link_pb2.RequestCancel(stream_id=attempt.stream_id)), urgent=True)
            self._wake()

    def forget(self, attempt: OpenedAttempt) -> None:
        if self._attempts.pop(attempt.stream_id, None) is not None:
            self._body_bytes -= attempt.body_bytes
            attempt.lane.discard()

    def lose_all(self, why: str) -> None:
        """The link is gone: each sink ends with LINK_LOST on the next turn."""
        self.closed = True
        failure = Failure(FailureCode.LINK_LOST, f"the link to the machine was lost: {why}")
        for attempt in list(self._attempts.values()):
            self._call_later(functools.partial(attempt.finish, failure))

    def _refusal(self, body_bytes: int) -> Failure | None:
        if self.closed:
            return Failure(FailureCode.LINK_LOST, "the link to the machine is gone")
        if len(self._attempts) >= STREAMS_PER_LINK_MAX:
            return Failure(FailureCode.RESOURCE_EXHAUSTED, f"{STREAMS_PER_LINK_MAX} requests are in flight there", 1000)
        if self._body_bytes + body_bytes > self._bodies_bytes_max:
            return Failure(FailureCode.RESOURCE_EXHAUSTED, "too many large requests are on their way there", 1000)
        return None


def _is_answer(status: int) -> bool:
    """Success with a body, or an error."""
    return (200 <= status < 300 and status not in _NO_ANSWERS) or 400 <= status < 600


def _open_item(stream_id: int, request: ForwardedRequest, inline: bytes) -> link_pb2.RequestOpen:
    return link_pb2.RequestOpen(
        stream_id=stream_id,
        request_id=request.request_id,
        attempt=request.attempt,
        model=request.model,
        path=request.path,
        body=inline,
        streaming=request.streaming,
        prompt_tokens=request.prompt_tokens,
        max_output_tokens=request.max_output_tokens,
        initial_credit_bytes=STREAM_WINDOW_BYTES,
        deadline_ms=request.deadline_ms,
        body_bytes=len(request.body),
        node_id=request.node_id,
    )
