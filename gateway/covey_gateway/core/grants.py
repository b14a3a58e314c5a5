"""Places that the leader has granted to this gateway: requests that may start without asking, and what came of them.

A leader that sees one machine for a model, nearly idle, has nothing to decide: with its answer it grants the next
requests the same machine, a few, for a moment (covey_scheduler.core.grants says when). Everything that makes the grant
doubtful voids it: another leader, a lost link, an attempt that failed there.

Not here: starting anything (io/straight.py), timers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from covey_mesh.core.asking import Decision, Grant, GrantedWork
from covey_mesh.core.names import NodeId

MODELS_MAX = 64
"""Models with a grant at one time; the oldest is forgotten."""

RENEWED_AT = 0.25
"""One request asks when so much of a grant is left, in requests, tokens or time: those that come meanwhile need not."""

USERS_MAX = 256
"""Users whose work is summed up before it is told; more of them make it be told at once."""

BY_GRANT = "grant"
"""Decision.decided_by of what was started under one."""


class Place:
    """Where one model's requests may start now. `why`: the decision in a line, for the answer's header. `rest_*`: what
    is left of an earlier grant, which ends when it would have ended: the leader counts no longer on it then."""

    __slots__ = (
        "asked",
        "decision",
        "low_requests",
        "low_tokens",
        "model",
        "node_id",
        "node_name",
        "renew_at_s",
        "requests",
        "rest_requests",
        "rest_tokens",
        "rest_until_s",
        "tokens",
        "until_s",
        "why",
    )

    def __init__(self, model: str, node_id: NodeId, node_name: str, grant: Grant, decision: Decision, now_s: float):
        self.model = model
        self.node_id = node_id
        self.node_name = node_name
        self.requests = grant.requests
        self.tokens = grant.prompt_tokens
        self.until_s = now_s + grant.valid_s
        self.low_requests = int(grant.requests * RENEWED_AT)
        self.low_tokens = int(grant.prompt_tokens * RENEWED_AT)
        self.renew_at_s = now_s + grant.valid_s * (1 - RENEWED_AT)
        self.rest_requests = self.rest_tokens = 0
        self.rest_until_s = 0.0
        self.asked = False
        self.decision = replace(decision, decided_by=BY_GRANT)
        self.why = self.decision.why

    def beside(self, earlier: Place) -> None:
        """With what is left of an earlier one on the same machine; of one before that nothing is kept."""
        self.rest_requests, self.rest_tokens, self.rest_until_s = earlier.requests, earlier.tokens, earlier.until_s
        self.low_requests = int((self.requests + earlier.requests) * RENEWED_AT)
        self.low_tokens = int((self.tokens + earlier.tokens) * RENEWED_AT)

    def take(self, prompt_tokens: int) -> bool:
        """One request, of what ends first. False: there is not so much."""
        if self.rest_requests >= 1 and self.rest_tokens >= prompt_tokens:
            self.rest_requests -= 1
            self.rest_tokens -= prompt_tokens
        elif self.requests >= 1 and self.tokens >= prompt_tokens:
            self.requests -= 1
            self.tokens -= prompt_tokens
        else:
            return False
        return True


class Grants:
    """Times are readings of the injected clock, in seconds."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def told(self, place: Place, now_s: float) -> None:
        """Beside what is left of an earlier one on the same machine: the leader gave it knowing of that."""
        before = self._places.pop(place.model, None)
        if before is not None and before.node_id == place.node_id and now_s <= before.until_s:
            place.beside(before)
        if len(self._places) >= MODELS_MAX:
            del self._places[next(iter(self._places))]
        self._places[place.model] = place

    def take(self, model: str, prompt_tokens: int, now_s: float, others_wait: bool = False) -> Place | None:
        """A place for one request, None: ask. Nobody passes `others` that wait for their turn to ask, unless it is the
        one that asks for all."""
        place = self._places.get(model)
        if place is None or (others_wait and not place.asked):
            return None
        if now_s > place.until_s:
            del self._places[model]
            return None
        if now_s > place.rest_until_s:
            place.rest_requests = place.rest_tokens = 0
        if not place.asked and (
            place.requests + place.rest_requests <= place.low_requests
            or place.tokens + place.rest_tokens <= place.low_tokens
            or now_s >= place.renew_at_s
        ):
            place.asked = True
            return None
        return place if place.take(prompt_tokens) else None

    def void_machine(self, node_id: NodeId) -> None:
        for model in [name for name, place in self._places.items() if place.node_id == node_id]:
            del self._places[model]

    def void(self) -> None:
        self._places.clear()


class _Sum:
    __slots__ = ("cached_tokens", "failed", "output_tokens", "prompt_tokens", "requests")

    def __init__(self) -> None:
        self.requests = self.failed = 0
        self.prompt_tokens = self.output_tokens = self.cached_tokens = 0


class Worked:
    """What came of granted requests, summed for the leader until `take`."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, NodeId, str, int], _Sum] = {}

    def __bool__(self) -> bool:
        """Something is to be told."""
        return bool(self._sums)

    @property
    def full(self) -> bool:
        """Tell it now."""
        return len(self._sums) >= USERS_MAX

    def ended(
        self,
        model: str,
        node_id: NodeId,
        user: str,
        priority: int,
        prompt_tokens: int,
        output_tokens: int,
        cached_tokens: int,
        failed: bool = False,
    ) -> None:
        """Without tokens where nothing was answered."""
        key = (model, node_id, user, priority)
        total = self._sums.get(key)
        if total is None:
            total = self._sums[key] = _Sum()
        total.requests += 1
        total.prompt_tokens += prompt_tokens
        total.output_tokens += output_tokens
        total.cached_tokens += cached_tokens
        if failed:
            total.failed += 1

    def tell(self, send: Callable[[GrantedWork], object]) -> None:
        """Everything, once; a leader that is gone has lost it, as it loses reports."""
        sums, self._sums = self._sums, {}
        for (model, node_id, user, priority), each in sums.items():
            tokens = each.prompt_tokens, each.output_tokens
            send(GrantedWork(model, node_id, user, priority, each.requests, *tokens, each.failed, each.cached_tokens))
