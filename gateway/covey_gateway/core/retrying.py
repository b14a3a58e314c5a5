"""The rules of trying again, as pure functions and one small table: how long to wait, whom to leave out, when to stop.

Source of the backoff: exponential with jitter, as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015),
jittered by half so that the pause named by a busy machine is roughly kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from covey_gateway.core.settings import RequestSettings
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.names import NodeId

BUSY = frozenset({FailureCode.RESOURCE_EXHAUSTED, FailureCode.DRAINING})
"""Nothing was started and the machine is well: counts as a refusal, not as a failure."""

FINAL = frozenset({FailureCode.DEADLINE_EXCEEDED})
"""Not mended by another machine."""

BUSY_EXCLUDED_MIN_S = 0.1
BUSY_EXCLUDED_MAX_S = 10.0
DOUBLINGS_MAX = 16


def backoff_s(round_number: int, at_least_s: float, settings: RequestSettings, random_unit: float) -> float:
    """Pause before the ask after the `round_number`-th fruitless one (first: 0); between 1 and 1.5 times the base."""
    doubled: float = settings.backoff_first_s * 2 ** min(round_number, DOUBLINGS_MAX)
    base = max(min(doubled, settings.backoff_max_s), min(at_least_s, settings.backoff_max_s))
    return base * (1 + 0.5 * random_unit)


@dataclass(slots=True)
class AttemptLedger:
    """What failed so far: counts against the bounds, and machines left out for a while with the reason."""

    settings: RequestSettings
    failures: int = 0
    engine_failures: int = 0
    refusals: int = 0
    last_message: str = ""
    _excluded: dict[NodeId, tuple[str, float, bool]] = field(default_factory=dict)
    _unlinked: set[NodeId] = field(default_factory=set)
    _forgiven: set[NodeId] = field(default_factory=set)

    def note(self, now_s: float, node_id: NodeId, failure: Failure) -> None:
        """An attempt on `node_id` ended without an answer."""
        busy = failure.code in BUSY
        if busy:
            self.refusals += 1
            wished_s = failure.retry_after_ms / 1000
            pause_s = min(max(wished_s, BUSY_EXCLUDED_MIN_S), BUSY_EXCLUDED_MAX_S)
        else:
            self.failures += 1
            self.engine_failures += failure.code is FailureCode.ENGINE_FAILED
            pause_s = self.settings.failed_machine_excluded_s
        self._unlinked.discard(node_id)
        if failure.code is FailureCode.LINK_LOST and node_id not in self._forgiven:
            self._unlinked.add(node_id)
        self.last_message = f"{failure.code.value}: {failure.message}"
        self._excluded[node_id] = (self.last_message, now_s + pause_s, busy)

    def linked_again(self, node_id: NodeId) -> bool:
        """A new link proves alive what was left out for a lost one. True if it may be asked again.

        Once for each machine: a flapping link must not use up a request's attempts in a moment.
        """
        if node_id not in self._unlinked:
            return False
        self._unlinked.discard(node_id)
        self._forgiven.add(node_id)
        return self._excluded.pop(node_id, None) is not None

    def excluded(self, now_s: float) -> dict[NodeId, str]:
        """Machines to leave out of the next ask."""
        return {node_id: reason for node_id, (reason, until_s, _) in self._excluded.items() if until_s > now_s}

    def forgive_full(self) -> None:
        """A place has freed somewhere: machines that merely had no room may be asked again."""
        for node_id in [node_id for node_id, (_, _, busy) in self._excluded.items() if busy]:
            del self._excluded[node_id]

    def busy(self, now_s: float) -> bool:
        """True if a machine that is merely full is among those left out."""
        return any(busy and until_s > now_s for _, until_s, busy in self._excluded.values())

    def next_return_s(self, now_s: float) -> float:
        """Seconds until the first machine left out may be asked again; 0 if none is."""
        waits = [until_s - now_s for _, until_s, _ in self._excluded.values() if until_s > now_s]
        return min(waits, default=0.0)

    def exhausted(self) -> bool:
        """No further attempt is allowed."""
        return (
            self.failures >= self.settings.attempts_max
            or self.engine_failures >= self.settings.engine_failures_max
            or self.refusals >= self.settings.refusals_max
        )


class BufferBudget:
    """A bound shared by many: bytes that may be held back together."""

    __slots__ = ("_limit", "used")

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.used = 0

    def take(self, count: int) -> bool:
        """False, and nothing taken, if the bound would be passed."""
        if self.used + count > self._limit:
            return False
        self.used += count
        return True

    def give_back(self, count: int) -> None:
        assert 0 <= count <= self.used, "gave back more than was taken"
        self.used -= count
