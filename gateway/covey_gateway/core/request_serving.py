"""What a machine answers to an attempt: held until it is sure, then relayed; and what follows when it fails."""

from __future__ import annotations

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core.event_stream import ERROR_EVENT, engine_fault, read_cached_tokens, read_usage
from covey_gateway.core.request_continuing import Continuing
from covey_gateway.core.request_state import Phase
from covey_gateway.core.retrying import BUSY, FINAL
from covey_mesh.core.asking import AttemptReport
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.names import NodeId
from covey_mesh.core.silence import FLOOR_S

CLIENT_GONE_STATUS = 499
LOOKS_A_GAP = 2
"""A relayed stream is looked at so often within the longest silence allowed: no timer is touched per token."""


class Serving(Continuing):
    """From an open attempt to the last byte."""

    _faulty = b""

    # --- before the first byte ---------------------------------------------------------------------------------------

    def _head(self, now_s: float, event: ev.UpstreamHead) -> list[ev.Effect]:
        held = self._held
        assert held is not None
        held.head(event.status, event.content_type, event.retry_after_s)
        if self.committed and not held.is_machine_error and (held.status != 200 or held.aligner is None):
            return [ev.CancelUpstream(), *self._not_continued_by(held.status)]
        return []

    def _not_continued_by(self, status: int) -> list[ev.Effect]:
        """Another machine took the continued request for a mistake: it would be one everywhere."""
        assert self._broken_by is not None
        reason = f"the engine refused to go on with it ({status})"
        self._drop_held()
        return [ev.ContinuationEnded("refused", reason), *self._break_with(self._broken_by, reason)]

    def _first_data(self, now_s: float, event: ev.UpstreamData) -> list[ev.Effect]:
        assert self._held is not None
        out = self._held.add(event.chunk)
        if out is None:
            return []
        if isinstance(out, Failure):
            return [ev.CancelUpstream(), *self._attempt_failed(now_s, out)]
        return [*self._commit(now_s), *self._deliver(now_s, out)]

    def _commit(self, now_s: float) -> list[ev.Effect]:
        """The point of no return: the client sees the first byte, or the first after a break."""
        held, node_id = self._held, self.node_id
        assert held is not None
        assert node_id is not None
        self._relay_from(now_s)
        self._aligner = held.aligner
        self._machines.append(self._around.name_of(node_id))
        if self.committed:
            self.continued += 1
            return [ev.Resumed(node_id, now_s - self._patient_from_s)]
        self._begin_keeping()
        self.status = held.status
        return [ev.DeliverHead(held.status, held.content_type, node_id, held.retry_after_s)]

    def _relay_from(self, now_s: float) -> None:
        assert self._pace is not None
        self._moved, self._idle_ticks = False, 0
        self._enter(Phase.RELAYING, now_s + self._pace.gap_s / LOOKS_A_GAP)

    def _ended_before_first(self, now_s: float, event: ev.UpstreamEnd) -> list[ev.Effect]:
        held = self._held
        assert held is not None
        if event.failure is not None:
            return [*self._told_silent(event.failure), *self._attempt_failed(now_s, event.failure)]
        if not held.status:
            return self._attempt_failed(now_s, Failure(FailureCode.INTERNAL, "the attempt ended without an answer"))
        if held.is_machine_error:
            failure = held.machine_failure()
            self._last_error = (held.status, held.content_type, held.take())
            return self._attempt_failed(now_s, failure)
        body = held.take()
        self.usage, self.cached_prompt_tokens = read_usage(body), read_cached_tokens(body)
        return [*self._commit(now_s), *([ev.DeliverData(body)] if body else []), *self._complete()]

    def _attempt_failed(self, now_s: float, failure: Failure) -> list[ev.Effect]:
        assert self.node_id is not None
        node_id = self.node_id
        self._drop_held()
        self._ledger.note(now_s, node_id, failure)
        effects = self._attempt_over(failure.code.value, failed=True, refused=failure.code in BUSY)
        if failure.code in FINAL:
            return [*effects, *self._refuse(now_s, errors.deadline_exceeded())]
        if self._ledger.exhausted() or now_s - self._patient_from_s > self._settings.retry_within_s:
            return [*effects, *self._exhausted(now_s, node_id)]
        return [*effects, ev.Retried(failure.code.value), *self._ask(now_s)]

    def _exhausted(self, now_s: float, node_id: NodeId) -> list[ev.Effect]:
        if self._last_error is None or self.committed:
            busy = self._ledger.refusals >= self._settings.refusals_max
            return self._refuse(
                now_s, self._busy_error() if busy else self._unavailable(errors.Code.ATTEMPTS_EXHAUSTED)
            )
        self.status, content_type, body = self._last_error
        self._enter(Phase.DONE, None)
        return [ev.DeliverHead(self.status, content_type, node_id), ev.DeliverData(body), ev.DeliverEnd(None)]

    # --- after the first byte ----------------------------------------------------------------------------------------

    def relay(self, chunk: bytes) -> bytes:
        """Only in RELAYING: the bytes that may go to the client now. Feed EngineFault where it leaves `faulty`."""
        self._moved = True
        aligner = self._aligner
        if aligner is None:
            return chunk
        out = aligner.feed(chunk)
        if ERROR_EVENT in out:
            self._faulty = out
            return b""
        kept = self._kept
        if kept is not None and out:
            kept.add(out)
        return out

    @property
    def faulty(self) -> bool:
        """The last `relay` met an engine's error event and holds it back."""
        return bool(self._faulty)

    def _data(self, now_s: float, event: ev.UpstreamData) -> list[ev.Effect]:
        out = self.relay(event.chunk)
        if self._faulty:
            return self._fault(now_s, ev.EngineFault(event.attempt))
        return [ev.DeliverData(out)] if out else []

    def _fault(self, now_s: float, event: ev.EngineFault) -> list[ev.Effect]:
        out, self._faulty = self._faulty, b""
        return self._deliver(now_s, out)

    def _deliver(self, now_s: float, out: bytes) -> list[ev.Effect]:
        """Whole events, or a body's bytes, that were not looked at yet."""
        fault = engine_fault(out) if self._aligner is not None and ERROR_EVENT in out else None
        if fault is None:
            self._keep(out)
            return [ev.DeliverData(out)]
        before, failure = fault
        if before:
            self._keep(before)
        delivered = [ev.DeliverData(before)] if before else []
        return [*delivered, ev.CancelUpstream(), *self._interrupted(now_s, failure)]

    def _ended(self, now_s: float, event: ev.UpstreamEnd) -> list[ev.Effect]:
        if event.failure is not None:
            return [*self._told_silent(event.failure), *self._interrupted(now_s, event.failure)]
        if self._aligner is None:
            return self._complete()
        rest = self._aligner.flush()
        end = self._aligner.end + rest
        self.usage, self.cached_prompt_tokens = read_usage(end), read_cached_tokens(end)
        return [*([ev.DeliverData(rest)] if rest else []), *self._complete()]

    # --- ends --------------------------------------------------------------------------------------------------------

    def _serving_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if self._past_deadline(now_s):
            error = errors.deadline_exceeded()
            failure = Failure(FailureCode.DEADLINE_EXCEEDED, error.message)
            return [ev.CancelUpstream(), *self._failed(now_s, failure)]
        if now_s < (self._due_s or 0.0):
            return []
        if not self._silent(now_s):
            return []
        assert self._pace is not None
        return self._stalled(now_s, self._pace.gap_s if self.phase is Phase.RELAYING else self._pace.first_s)

    def _silent(self, now_s: float) -> bool:
        """Looks, and sets the next look. A paused reader is the client's silence, not the machine's."""
        assert self.node_id is not None
        self._pace = self._around.pace(self.node_id, self.facts.model, self._work())
        if self.phase is Phase.OPENING:
            late = now_s >= self.opened_at_s + self._pace.first_s and not self.paused
            self._enter(Phase.OPENING, max(now_s + FLOOR_S, self.opened_at_s + self._pace.first_s))
            return late
        moved, self._moved = self._moved or self.paused, False
        self._idle_ticks = 0 if moved else self._idle_ticks + 1
        self._enter(Phase.RELAYING, now_s + self._pace.gap_s / LOOKS_A_GAP)
        return self._idle_ticks >= LOOKS_A_GAP

    def _told_silent(self, failure: Failure) -> list[ev.Effect]:
        """Its own machine found that nothing comes from the engine: counts like our finding."""
        assert self.node_id is not None
        return [ev.Stalled(self.node_id, 0.0)] if failure.code is FailureCode.STALLED else []

    def _stalled(self, now_s: float, limit_s: float) -> list[ev.Effect]:
        assert self.node_id is not None
        why = f"nothing came for {limit_s:.1f} s, which its measured speed does not explain"
        stalled = ev.Stalled(self.node_id, limit_s)
        return [stalled, ev.CancelUpstream(), *self._failed(now_s, Failure(FailureCode.STALLED, why))]

    def _failed(self, now_s: float, failure: Failure) -> list[ev.Effect]:
        relaying = self.phase is Phase.RELAYING
        return self._interrupted(now_s, failure) if relaying else self._attempt_failed(now_s, failure)

    def _gone_waiting(self, now_s: float, event: ev.ClientGone) -> list[ev.Effect]:
        self.status = CLIENT_GONE_STATUS
        effects = self._withdraw()
        self._enter(Phase.DONE, None)
        return effects

    def _gone_serving(self, now_s: float, event: ev.ClientGone) -> list[ev.Effect]:
        assert self.node_id is not None
        self.status = CLIENT_GONE_STATUS
        self._drop_held()
        report = AttemptReport(self.facts.request_id, self.attempt, self.node_id, output_tokens=self.events)
        ended = ev.AttemptEnded(self.attempt, self.node_id, "client gone")
        self._enter(Phase.DONE, None)
        return [ev.CancelUpstream(), ended, ev.Report(None, report)]
