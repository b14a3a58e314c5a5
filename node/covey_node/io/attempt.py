"""One admitted request on an engine: the Upstream of who opened it, the sink of the engine; or one refused at once.

The token path: per chunk one count of event marks, no parsing, no task. A whole answer is one call in and one out.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from covey_mesh.core.exchange import Failure, FailureCode, ForwardedRequest, ResponseSink, Upstream, Usage
from covey_mesh.core.silence import CONTEXT_TOKENS_UNKNOWN, FACTOR, TOKENS_A_TOOL_CALL, TOKENS_AN_EVENT, may_hold_back
from covey_node.core.engine import Engine
from covey_node.core.engine_progress import ANSWERED_AFTER_EVENTS, EngineProgress, OpenAttempt
from covey_node.core.meter import Metered
from covey_node.core.ticket import Ticket
from covey_node.core.usage import USAGE_TAIL_BYTES, read_usage

EVENT_MARK = b"data: "
"""Begins each event of a stream: one token, nearly always (vLLM joins tokens only when the reader lags)."""

ASKS_FOR_USAGE = b'"include_usage"'

BESIDE_THE_ENGINE = frozenset({"/tokenize", "/detokenize", "/v1/messages/count_tokens"})
"""Answered by its HTTP server alone: no sign that the engine lives."""


class Served(Protocol):
    """What an attempt needs of its model."""

    @property
    def progress(self) -> EngineProgress: ...

    def progressed(self, ticket: Ticket, metered: Metered | None, tokens: int) -> int:
        """Output arrived; returns after how many further tokens to tell again."""

    def answered(self, attempt: Attempt, usage: Usage | None) -> None:
        """It ended with its whole answer, which told this; None: nothing, or it is a refusal."""

    def streamed(self, metered: Metered | None, tail: bytes) -> None:
        """A stream ended well; its usage stands in its `tail`."""

    def over(self, attempt: Attempt, complete: bool) -> None:
        """It ended; `complete`: with its whole answer."""


def refused(sink: ResponseSink, failure: Failure) -> Upstream:
    """An attempt that ends at once, on the next turn of the loop."""
    return _Refused(sink, failure)


class _Refused:
    def __init__(self, sink: ResponseSink, failure: Failure) -> None:
        self._handle = asyncio.get_running_loop().call_soon(sink.end, failure)

    def cancel(self) -> None:
        self._handle.cancel()

    def pause(self) -> None:
        pass

    def resume(self) -> None:
        pass


class Attempt:
    """Admitted; it runs when its turn comes."""

    metered: Metered | None = None
    _upstream: Upstream | None = None
    _paused: bool = False
    _before: bytes = b""
    _tail: bytes = b""
    _untold_tokens: int = 0
    _told_every: int = 1
    _tells: bool = False
    _holds_back: bool = False
    _status: int = 0
    _deadline: asyncio.TimerHandle | None = None
    _last_word: asyncio.Handle | None = None

    def __init__(self, served: Served, request: ForwardedRequest, sink: ResponseSink, ticket: Ticket) -> None:
        self._served = served
        self._progress = served.progress
        self._sink: ResponseSink | None = sink
        self._streaming = request.streaming
        self.request = request
        self.ticket = ticket
        if request.streaming:
            self._tells = ASKS_FOR_USAGE in request.body
            self._holds_back = may_hold_back(request.body)
        if request.deadline_ms > 0:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(request.deadline_ms / 1000, self._late)

    def run(self, engine: Engine, metered: Metered) -> None:
        """Its turn has come."""
        self.metered = metered
        self._upstream = engine.open(self.request, self)
        if self._paused:
            self._upstream.pause()

    def open_work(self, now_s: float, embeds: bool, context_tokens: int) -> OpenAttempt:
        """As the engine's silence is judged by. An answer that comes as a whole does not show when its prompt was
        computed; it is taken to be, FACTOR times as late as expected."""
        request, ticket, metered = self.request, self.ticket, self.metered
        if request.streaming:
            answered = ticket.output_tokens >= ANSWERED_AFTER_EVENTS
            silent_tokens = TOKENS_A_TOOL_CALL if self._holds_back else TOKENS_AN_EVENT
        else:
            due_s = ticket.prompt_due_s
            began_s = now_s if metered is None else metered.mark_s
            answered = not embeds and due_s is not None and now_s - began_s > FACTOR * (due_s - began_s)
            silent_tokens = 0 if embeds else request.max_output_tokens or context_tokens or CONTEXT_TOKENS_UNKNOWN
        return OpenAttempt(0 if answered else request.prompt_tokens, silent_tokens, self._paused)

    def fail(self, failure: Failure) -> None:
        """Ended from here (superseded, waited too long, late): the engine's work is aborted."""
        if self._upstream is not None:
            self._upstream.cancel()
        self.end(failure)

    def fail_soon(self, failure: Failure) -> None:
        """As `fail`, but the sink hears of it on the next turn of the loop."""
        sink = self._sink
        if sink is not None:
            self.cancel()
            self._last_word = asyncio.get_running_loop().call_soon(sink.end, failure)

    # What the opener calls.

    def cancel(self) -> None:
        if self._sink is None:
            if self._last_word is not None:
                self._last_word.cancel()
            return
        self._sink = None
        if self._upstream is not None:
            self._upstream.cancel()
        self._over(complete=False)

    def pause(self) -> None:
        self._paused = True
        if self._upstream is not None:
            self._upstream.pause()

    def resume(self) -> None:
        self._paused = False
        if self._upstream is not None:
            self._upstream.resume()

    # What the engine calls.

    def whole(
        self, status: int, content_type: str, retry_after_s: int, body: bytes, usage: Usage | None = None
    ) -> None:
        """See ResponseSink; the usage is read here."""
        sink = self._sink
        if sink is None:
            return
        if self._streaming:
            self._in_pieces(status, content_type, retry_after_s, body)
            return
        self._sink = None
        if self._deadline is not None:
            self._deadline.cancel()
        if status == 200:
            usage = read_usage(body)
            if self.request.path not in BESIDE_THE_ENGINE:
                self._progress.moved = True
        self._served.answered(self, usage)
        sink.whole(status, content_type, retry_after_s, body, usage)

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self._status = status
        if self._sink is not None:
            self._sink.head(status, content_type, retry_after_s)

    def data(self, chunk: bytes) -> None:
        sink = self._sink
        if sink is None:
            return
        if not self._streaming:
            self._tail = (self._tail + chunk if len(chunk) < USAGE_TAIL_BYTES else chunk)[-USAGE_TAIL_BYTES:]
            sink.data(chunk)
            return
        self._untold_tokens += chunk.count(EVENT_MARK)
        if self._tells:  # the usage may come in a read before "[DONE]"
            self._before, self._tail = self._tail, chunk
        sink.data(chunk)  # who waits for it first, the books after; whoever cancels in there has closed them
        if self._untold_tokens >= self._told_every:
            self._progress.moved = True
            self._tell_progress()

    def end(self, failure: Failure | None) -> None:
        if self._sink is None:
            return
        sink, self._sink = self._sink, None
        if failure is None and self._status == 200:
            self._progress.moved = self._progress.moved or self.request.path not in BESIDE_THE_ENGINE
            if self._tells:
                self._served.streamed(self.metered, (self._before + self._tail)[-USAGE_TAIL_BYTES:])
        if failure is None and not self._streaming:
            self._answered_in_pieces()
        else:
            self._over(complete=failure is None)
        sink.end(failure)

    def _in_pieces(self, status: int, content_type: str, retry_after_s: int, body: bytes) -> None:
        """What was to be a stream: a refusal, nearly always."""
        self.head(status, content_type, retry_after_s)
        if body:
            self.data(body)
        self.end(None)

    def _answered_in_pieces(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._served.answered(self, read_usage(self._tail) if self._status == 200 else None)

    def _late(self) -> None:
        self.fail(Failure(FailureCode.DEADLINE_EXCEEDED, "the client's deadline passed before the answer was complete"))

    def _tell_progress(self) -> None:
        tokens, self._untold_tokens = self._untold_tokens, 0
        self._told_every = self._served.progressed(self.ticket, self.metered, tokens)

    def _over(self, complete: bool) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        if complete and self._untold_tokens:
            self._tell_progress()
        self._served.over(self, complete)
