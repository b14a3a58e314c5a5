"""Where a request's next attempt runs: asking the leader, waiting in its queue, deciding alone, backing off.

Only a missing acknowledgement, a lost link or lost leadership lets the gateway decide alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from covey_gateway.core import errors
from covey_gateway.core import request_events as ev
from covey_gateway.core.held_answer import HeldAnswer
from covey_gateway.core.progress import TOKENS_AN_EVENT, Work
from covey_gateway.core.request_state import Phase, RequestState
from covey_gateway.core.retrying import backoff_s
from covey_gateway.core.splicing import Splicer
from covey_mesh.core.asking import TURNED_AWAY_DEADLINE, TURNED_AWAY_EXPIRED, TURNED_AWAY_QUEUE_FULL, Ask
from covey_mesh.core.names import NodeId
from covey_mesh.core.silence import TOKENS_A_TOOL_CALL
from covey_scheduler.core.filters import NOT_OFFERED

QUEUED_REMINDER_S = 5.0
"""A queued ask is repeated this often (same attempt: changes nothing where it is known), should the leader forget."""

LATE_TICK_S = 0.1
"""A tick this late says more of this machine's loop (a thousand requests came at once) than of the leader."""

ASK_BUSY_S_MAX = 3.0
"""Longest wait for the acknowledgement of a leader that goes on answering others of this gateway's asks."""

LEADERS_PATIENCE_S = 3.5
"""A leader waits about this long itself for machines that may be back in a moment: it is part of the client's wait."""

LEADERS_LINE = (TURNED_AWAY_QUEUE_FULL, TURNED_AWAY_EXPIRED)
"""The leader's queue had no room for an ask, or it waited there too long: the pool is busy, nothing else."""


class Placing(RequestState):
    """From an ask to an assignment."""

    def _started(self, now_s: float, event: ev.Started) -> list[ev.Effect]:
        self._leader = event.leader
        return self._ask(now_s)

    def _granted(self, now_s: float, event: ev.Granted) -> list[ev.Effect]:
        self._leader = event.leader
        self.attempt, self._asked_at_s = 1, event.at_s
        return self._assigned(event.at_s, ev.Assigned(1, event.node_id, event.decision))

    def _ask(self, now_s: float) -> list[ev.Effect]:
        if self._leader is None:
            return self._decide_alone(now_s)
        ask = self._next_ask(now_s)
        self._enter(Phase.ASKING, now_s + self._settings.ask_acknowledged_within_s)
        self._asked = self._leader
        return [ev.SendAsk(self._leader, ask)]

    def _decide_alone(self, now_s: float) -> list[ev.Effect]:
        ask = self._next_ask(now_s)
        self._enter(Phase.DECIDING, None)
        self._asked = None
        return [ev.DecideAlone(ask)]

    def _next_ask(self, now_s: float) -> Ask:
        self.attempt += 1
        self._asked_at_s = now_s
        return self._as_ask(now_s)

    def _as_ask(self, now_s: float) -> Ask:
        facts = self.facts
        return Ask(
            request_id=facts.request_id,
            attempt=self.attempt,
            model=facts.model,
            prompt_tokens=self.prompt_tokens,
            max_output_tokens=self.max_output_tokens,
            prefix_hashes=facts.prefix_hashes,
            excluded={**self._around.excluded(now_s, facts.model), **self._ledger.excluded(now_s)},
            user=facts.user,
            priority=facts.priority,
            deadline_s=0.0 if facts.deadline_at_s is None else max(0.001, facts.deadline_at_s - now_s),
            waited_s=now_s - facts.arrived_s,
            longest_prompt_tokens=facts.longest_prompt_tokens,
        )

    def _queued(self, now_s: float, event: ev.Queued) -> list[ev.Effect]:
        self.decision = event.decision or self.decision
        if event.blind:
            return self._see_for_oneself(now_s)
        until_s = self._patient_from_s + self._settings.queue_wait_s
        self._enter(Phase.QUEUED, min(until_s, now_s + QUEUED_REMINDER_S))
        return []

    def _queued_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if self._past_deadline(now_s):
            return self._refuse(now_s, errors.deadline_exceeded())
        if now_s < (self._due_s or 0.0):
            return []
        if now_s >= self._patient_from_s + self._settings.queue_wait_s:
            return self._refuse(now_s, self._busy_error())
        self._queued(now_s, ev.Queued(self.attempt))
        assert self._asked is not None
        return [ev.SendAsk(self._asked, self._as_ask(now_s))]

    def _asking_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if self._past_deadline(now_s):
            return self._refuse(now_s, errors.deadline_exceeded())
        if now_s < (self._due_s or 0.0):
            return []
        assert self._asked is not None
        within_s = self._settings.ask_acknowledged_within_s
        heard_s = self._around.leader_heard_s()
        alive = max(self._asked_at_s, now_s - within_s) < heard_s and now_s - self._asked_at_s < ASK_BUSY_S_MAX
        if alive or now_s >= (self._due_s or 0.0) + LATE_TICK_S:
            # It answers others' asks one after the other, or this machine's own loop stood still: no silence.
            self._enter(Phase.ASKING, now_s + within_s)
            return []
        return [ev.AskTimedOut(self._asked), *self._withdraw(), *self._decide_alone(now_s)]

    def _leader_changed(self, now_s: float, event: ev.LeaderChanged) -> list[ev.Effect]:
        """While waiting for the old one's word: the request goes to the new one, or is decided here."""
        self._leader = event.leader
        if event.leader is not None and event.leader == self._asked:
            return []
        return [*self._withdraw(), *self._ask(now_s)]

    def _leader_noted(self, now_s: float, event: ev.LeaderChanged) -> list[ev.Effect]:
        self._leader = event.leader
        return []

    def _leader_told(self, now_s: float, event: ev.LeaderChanged) -> list[ev.Effect]:
        """While an attempt runs: the new leader should know whose place that is."""
        self._leader = event.leader
        if event.leader is None or self.node_id is None:
            return []
        held = replace(self._as_ask(now_s), running_on=self.node_id, excluded={}, deadline_s=0.0)
        return [ev.SendAsk(event.leader, held)]

    def _leader_found(self, now_s: float, event: ev.LeaderChanged) -> list[ev.Effect]:
        self._leader = event.leader
        return self._ask(now_s) if event.leader is not None else []

    def _leader_unreachable(self, now_s: float, event: ev.LeaderUnreachable) -> list[ev.Effect]:
        return self._decide_alone(now_s)

    def _linked_again(self, now_s: float, event: ev.LinkedAgain) -> list[ev.Effect]:
        self._ledger.linked_again(event.node_id)
        return []

    def _linked_again_while_waiting(self, now_s: float, event: ev.LinkedAgain) -> list[ev.Effect]:
        """Whoever lost all links at once (a laptop that wakes) need not wait until the machines are forgiven."""
        return self._ask(now_s) if self._ledger.linked_again(event.node_id) else []

    def _no_candidate(self, now_s: float, event: ev.NoCandidate) -> list[ev.Effect]:
        self.decision = event.decision or self.decision
        by_leader = self.phase is not Phase.DECIDING
        turned_away = "" if event.decision is None else event.decision.turned_away
        if event.in_line:
            return self._stand_in_line(now_s)
        if turned_away == TURNED_AWAY_DEADLINE:
            return self._refuse(now_s, errors.deadline_unreachable(self.decision, event.retry_after_ms))
        if event.blind and by_leader:
            return self._see_for_oneself(now_s)
        if by_leader and not self._ledger.excluded(now_s) and not event.retry_after_ms:
            return self._refuse(now_s, self._unserved_error(event.standing, busy=False))
        if self._waiting_since_s is None:
            recently = by_leader and now_s - self._asked_at_s <= LEADERS_PATIENCE_S
            self._waiting_since_s, self._rounds = self._asked_at_s if recently else now_s, 0
        busy = self._ledger.busy(now_s) or turned_away in LEADERS_LINE
        hopeful = event.standing.hopeful or not by_leader or not event.standing.known
        until_s = self._wait_until_s(busy, hopeful)
        if now_s >= until_s or (not busy and now_s + self._closed_s(now_s) > until_s):
            return self._refuse(now_s, self._unserved_error(event.standing, busy))
        at_least_s = max(event.retry_after_ms / 1000, self._ledger.next_return_s(now_s))
        pause_s = backoff_s(self._rounds, at_least_s, self._settings, self._jitter())
        self._rounds += 1
        self._enter(Phase.BACKING_OFF, min(now_s + pause_s, until_s))
        return []

    def _stand_in_line(self, now_s: float) -> list[ev.Effect]:
        until_s = self._wait_until_s(busy=True, hopeful=True)
        if now_s >= until_s:
            return self._refuse(now_s, self._busy_error())
        self._enter(Phase.BACKING_OFF, until_s)
        return []

    def _my_turn(self, now_s: float, event: ev.YourTurn) -> list[ev.Effect]:
        if event.place_freed:
            self._ledger.forgive_full()
        return self._ask(now_s)

    def _closed_s(self, now_s: float) -> float:
        """Where every machine that offers the model fell silent on this gateway: seconds until one is tried again."""
        closed = self._around.excluded(now_s, self.facts.model)
        if not closed or self.decision is None:
            return 0.0
        offering = [v.node_id for v in self.decision.candidates if v.rejected_because != NOT_OFFERED]
        if not offering or not all(node_id in closed for node_id in offering):
            return 0.0
        return self._around.reopens_s(now_s, self.facts.model)

    def _see_for_oneself(self, now_s: float) -> list[ev.Effect]:
        """The leader lacks a link that this machine has: what it cannot see need not fail (docs/adr/0009)."""
        return [*self._withdraw(), *self._decide_alone(now_s)]

    def _wait_until_s(self, busy: bool, hopeful: bool) -> float:
        if busy:
            return self._patient_from_s + self._settings.queue_wait_s
        assert self._waiting_since_s is not None
        return self._waiting_since_s + (self._settings.unserved_wait_s if hopeful else 0.0)

    def _unserved_error(self, standing: ev.ModelStanding, busy: bool) -> errors.GatewayError:
        if not standing.known:
            return errors.model_not_found(self.facts.model, standing.offered)
        if busy:
            return self._busy_error()
        longest = self.facts.longest_prompt_tokens or self.facts.prompt_tokens
        if 0 < standing.context_tokens < longest:
            return errors.context_exceeded(standing.context_tokens, longest, "about")
        return self._unavailable(errors.Code.NOTHING_ABLE_TO_SERVE)

    def _backing_off_tick(self, now_s: float, event: ev.Tick) -> list[ev.Effect]:
        if self._past_deadline(now_s):
            return self._refuse(now_s, errors.deadline_exceeded())
        return self._ask(now_s) if now_s >= (self._due_s or 0.0) else []

    def _assigned(self, now_s: float, event: ev.Assigned) -> list[ev.Effect]:
        self.decision = event.decision or self.decision
        self.node_id = event.node_id
        self.opened += 1
        self._waiting_since_s = None
        self._last_error = None
        self._pace = self._around.pace(event.node_id, self.facts.model, self._work())
        self.opened_at_s = now_s
        self._enter(Phase.OPENING, now_s + self._pace.first_s)
        if self._continuing is not None and self._continuing.to_count:
            return [ev.CountOn(event.node_id, self.attempt, self._continuing.to_count)]
        return self._open(event.node_id)

    def _open(self, node_id: NodeId) -> list[ev.Effect]:
        self._held = HeldAnswer(self._budget, self._settings.buffered_answer_bytes_max, self._splicer(node_id))
        body = None if self._continuing is None else self._continuing.body
        return [ev.OpenOn(node_id, self.attempt, body)]

    def _splicer(self, node_id: NodeId) -> Splicer | None:
        if self._continuing is None:
            return None
        return Splicer(self._continuing, self._flag([*self._machines, self._around.name_of(node_id)]))

    def _flag(self, machines: list[str]) -> dict[str, Any]:
        """The `covey` field of a continued stream's last events."""
        return {"continued": len(machines) - 1, "machines": machines}

    def _work(self) -> Work:
        facts = self.facts
        most = max(1, facts.answer_tokens_most - self._kept_tokens) if facts.answer_tokens_most else 0
        silent = TOKENS_A_TOOL_CALL if facts.may_hold_back else TOKENS_AN_EVENT
        return Work(self.prompt_tokens, most, facts.streaming, silent)
