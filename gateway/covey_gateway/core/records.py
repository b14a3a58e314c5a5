"""What is remembered of each request: decisions, attempts, times, outcome. Never a prompt, an answer or a key."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from covey_mesh.core.asking import Decision
from covey_mesh.core.limits import DECISIONS_KEPT
from covey_mesh.core.names import NodeId

DECISIONS_PER_REQUEST_MAX = 32
ATTEMPTS_PER_REQUEST_MAX = 64
RUNNING = "running"


@dataclass(slots=True)
class AttemptRecord:
    """Seconds are since the attempt's start; None until it happened. `outcome`: "running", "completed", or why not."""

    attempt: int
    node_id: NodeId
    started_s: float
    outcome: str = RUNNING
    first_byte_s: float | None = None
    total_s: float | None = None


@dataclass(slots=True)
class PartRecord:
    """One part of a cut request: units `begin` to `end` (inputs or texts to write), and the request that runs for it.

    `started_s` is a reading of the gateway's clock, `total_s` since then."""

    request_id: str
    begin: int
    end: int
    started_s: float
    node_id: NodeId | None = None
    status: int = 0
    error: str = ""
    total_s: float | None = None


@dataclass(slots=True)
class RequestRecord:
    """`status` is 0 while running, 499 when the client left. Seconds are since the request's arrival. `parts` of one
    that was cut; `part_of`: the request that this is a part of."""

    request_id: str
    path: str
    model: str
    streaming: bool
    prompt_tokens: int
    max_output_tokens: int
    arrived_at_unix_s: float
    decisions: list[Decision] = field(default_factory=list)
    attempts: list[AttemptRecord] = field(default_factory=list)
    status: int = 0
    error: str = ""
    node_id: NodeId | None = None
    first_byte_s: float | None = None
    total_s: float | None = None
    parts: list[PartRecord] = field(default_factory=list)
    part_of: str = ""

    def decided(self, decision: Decision | None) -> None:
        if decision is not None and len(self.decisions) < DECISIONS_PER_REQUEST_MAX:
            self.decisions.append(decision)

    def opened(self, attempt: int, node_id: NodeId, now_s: float) -> None:
        if len(self.attempts) < ATTEMPTS_PER_REQUEST_MAX:
            self.attempts.append(AttemptRecord(attempt, node_id, now_s))

    def ended(self, attempt: int, outcome: str, now_s: float) -> None:
        for each in reversed(self.attempts):
            if each.attempt == attempt and each.outcome == RUNNING:
                each.outcome, each.total_s = outcome, now_s - each.started_s
                return


class RecordBook:
    """The last `kept` requests, oldest dropped first."""

    def __init__(self, kept: int = DECISIONS_KEPT) -> None:
        self._kept = kept
        self._records: OrderedDict[str, RequestRecord] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        """Newest first."""
        return iter(reversed(self._records.values()))

    def add(self, record: RequestRecord) -> None:
        self._records[record.request_id] = record
        if len(self._records) > self._kept:
            self._records.popitem(last=False)

    def get(self, request_id: str) -> RequestRecord | None:
        return self._records.get(request_id)
