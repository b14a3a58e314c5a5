"""What a machine answers to an attempt: held until it is sure, then relayed; and what follows when it fails."""

from __future__ import annotations

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core.event_stream import read_usage
from covey_gateway.core.request_placing import Placing
from covey_gateway.core.request_state import Phase
from covey_gateway.core.retrying import FINAL
from covey_mesh.core.asking import AttemptReport
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.names import NodeId

CLIENT_GONE_STATUS = 499


class Serving(Placing):
    """From an open attempt to the last byte."""

    # --- before the first byte ---------------------------------------------------------------------------------------

    def _head(self, now_s: float, event: ev.UpstreamHead) -> list[ev.Effect]:
        assert self._held is not None
        self._held.head(event.status, event.content_type, event.retry_after_s)
        return []

    def _first_data(self, now_s: float, event: ev.UpstreamData) -> list[ev.Effect]:
        assert self._held is not None
        out = self._held.add(event.chunk)
        if out is None:
            return []
        if isinstance(out, Failure):
            return [ev.CancelUpstream(), *self._attempt_failed(now_s, out)]
        return self._commit(out)

    def _commit(self, first: bytes) -> list[ev.Effect]:
        """The point of no return: the client sees the first byte."""
        held = self._held
        assert held is not None
        assert self.node_id is not None
        self._enter(Phase.RELAYING, None)
        self._aligner = held.aligner
        self.status = held.status
        head = ev.DeliverHead(held.status, held.content_type, self.node_id, held.retry_after_s)
        return [head, ev.DeliverData(first)] if first else [head]

    def _ended_before_first(self, now_s: float, event: ev.UpstreamEnd) -> list[ev.Effect]:
        held = self._held
        assert held is not None
        if event.failure is not None:
            return self._attempt_failed(now_s, event.failure)
        if not held.status:
            return self._attempt_failed(now_s, Failure(FailureCode.INTERNAL, "the attempt ended without an answer"))
        if held.is_machine_error:
            failure = held.machine_failure()
            self._last_error = (held.status, held.content_type, held.take())
            return self._attempt_failed(now_s, failure)
        body = held.take()
        self.usage = read_usage(body)
        return [*self._commit(body), *self._complete()]

    def _attempt_failed(self, now_s: float, failure: Failure) -> list[ev.Effect]:
        assert self.node_id is not None
        node_id, self.node_id = self.node_id, None
        self._drop_held()
        self._ledger.note(now_s, node_id, failure)
        effects: list[ev.Effect] = [
            ev.AttemptEnded(self.attempt, node_id, failure.code.value),
            ev.Report(None, AttemptReport(self.facts.request_id, self.attempt, node_id, failed=True)),
        ]
        if failure.code in FINAL:
            return [*effects, *self._refuse(now_s, errors.deadline_exceeded())]
        if self._ledger.exhausted() or now_s - self.facts.arrived_s > self._settings.retry_within_s:
            return [*effects, *self._exhausted(now_s, node_id)]
        return [*effects, ev.Retried(failure.code.value), *self._ask(now_s)]

    def _exhausted(self, now_s: float, node_id: NodeId) -> list[ev.Effect]:
        if self._last_error is None:
            busy = self._ledger.refusals >= self._settings.refusals_max
            return self._refuse(
                now_s, self._busy_error() if busy else self._unavailable(errors.Code.ATTEMPTS_EXHAUSTED)
            )
        self.status, content_type, body = self._last_error
        self._enter(Phase.DONE, None)
        return [ev.DeliverHead(self.status, content_type, node_id), ev.DeliverData(body), ev.DeliverEnd(None)]

    # --- after the first byte ----------------------------------------------------------------------------------------

    def relay(self, chunk: bytes) -> bytes:
        """Only in RELAYING: the bytes that may go to the client now."""
        assert self.phase is Phase.RELAYING
        return chunk if self._aligner is None else self._aligner.feed(chunk)

    def _data(self, now_s: float, event: ev.UpstreamData) -> list[ev.Effect]:
        out = self.relay(event.chunk)
        return [ev.DeliverData(out)] if out else []

    def _ended(self, now_s: float, event: ev.UpstreamEnd) -> list[ev.Effect]:
        if event.failure is not None:
            error = errors.stream_broken(event.failure.message or event.failure.code.value)
            return self._break(event.failure, error)
        if self._aligner is None:
            return self._complete()
        rest = self._aligner.flush()
        self.usage = read_usage(self._aligner.end + rest)
        return [*([ev.DeliverData(rest)] if rest else []), *self._complete()]

    def _complete(self) -> list[ev.Effect]:
        assert self.node_id is not None
        self._enter(Phase.DONE, None)
        report = AttemptReport(
            self.facts.request_id, self.attempt, self.node_id, output_tokens=self.usage[1] or self.events
        )
        ended = ev.AttemptEnded(self.attempt, self.node_id, "completed")
        return [ev.DeliverEnd(None), ended, ev.Report(None, report)]

    # --- ends --------------------------------------------------------------------------------------------------------

    def _serving_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if not self._past_deadline(now_s):
            return []
        error = errors.deadline_exceeded()
        if self.phase is Phase.RELAYING:
            return [ev.CancelUpstream(), *self._break(Failure(FailureCode.DEADLINE_EXCEEDED, error.message), error)]
        failure = Failure(FailureCode.DEADLINE_EXCEEDED, error.message)
        return [ev.CancelUpstream(), *self._attempt_failed(now_s, failure)]

    def _gone_waiting(self, now_s: float, event: ev.ClientGone) -> list[ev.Effect]:
        self.status = CLIENT_GONE_STATUS
        effects = self._withdraw()
        self._enter(Phase.DONE, None)
        return effects

    def _gone_serving(self, now_s: float, event: ev.ClientGone) -> list[ev.Effect]:
        assert self.node_id is not None
        self.status = CLIENT_GONE_STATUS
        self._drop_held()
        self._enter(Phase.DONE, None)
        report = AttemptReport(self.facts.request_id, self.attempt, self.node_id, output_tokens=self.events)
        ended = ev.AttemptEnded(self.attempt, self.node_id, "client gone")
        return [ev.CancelUpstream(), ended, ev.Report(None, report)]
