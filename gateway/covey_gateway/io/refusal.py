"""A request that was refused before it began."""

from __future__ import annotations

from covey_gateway.core import errors
from covey_gateway.core.errors import GatewayError
from covey_gateway.core.front import AnswerHead, ClientSink
from covey_gateway.io.flight import Timers


class Refusal:
    """An ActiveRequest like any other (covey_gateway.core.front): the sink is not called before it was returned."""

    def __init__(self, timers: Timers, request_id: str, error: GatewayError, sink: ClientSink) -> None:
        self.request_id = request_id
        self._error = error
        self._sink = sink
        self._timer = timers.call_soon(self._tell)

    def _tell(self) -> None:
        error = self._error
        self._sink.head(AnswerHead(error.status, errors.JSON, self.request_id, retry_after_s=error.retry_after_s))
        self._sink.data(error.body())
        self._sink.end(None)

    def cancel(self) -> None:
        self._timer.cancel()

    def pause(self) -> None:
        """The answer is one small piece."""

    def resume(self) -> None:
        """See pause."""
