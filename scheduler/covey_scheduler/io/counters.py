"""What the scheduler counts for metrics; read by whoever exports them, written by service.py only."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from covey_mesh.core.asking import Outcome

QUEUE_WAIT_BUCKETS_S = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds, as in Prometheus; one more bucket holds the rest."""


@dataclass(slots=True)
class SchedulerCounters:
    """Only ever rises. `queue_wait_buckets[i]` counts waits up to QUEUE_WAIT_BUCKETS_S[i] (not cumulative)."""

    decisions: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    asks_dropped: int = 0
    """Received while another machine leads."""
    answers_undeliverable: int = 0
    grants: int = 0
    requests_granted: int = 0
    """That might start without an ask; how many did is the gateways' to say."""
    queue_wait_s_sum: float = 0.0
    queue_wait_count: int = 0
    queue_wait_buckets: list[int] = field(default_factory=lambda: [0] * (len(QUEUE_WAIT_BUCKETS_S) + 1))

    def decided(self, outcome: Outcome, queued_for_s: float) -> None:
        """The wait is counted once for each request, when it is assigned."""
        self.decisions[outcome] += 1
        if outcome is not Outcome.ASSIGNED:
            return
        self.queue_wait_s_sum += queued_for_s
        self.queue_wait_count += 1
        self.queue_wait_buckets[bisect_left(QUEUE_WAIT_BUCKETS_S, queued_for_s)] += 1
