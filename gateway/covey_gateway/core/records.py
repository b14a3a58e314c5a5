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
COMPLETED = "completed"


@dataclass(slots=True)
class AttemptRecord:
    """Seconds are since the attempt's start, itself `started_s` on the gateway's clock (0 where nobody needs it); None
    until it happened. `outcome`: "running", "completed", or why not."""

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


_Straight = tuple[str, str, str, int, int, float, NodeId, Decision | None, float, float]
"""The arguments of `add_straight`."""


class RecordBook:
    """The last `kept` requests, oldest dropped first."""

    def __init__(self, kept: int = DECISIONS_KEPT) -> None:
        self._kept = kept
        self._records: OrderedDict[str, RequestRecord | _Straight] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[RequestRecord]:
        """Newest first."""
        return map(self._made, reversed(self._records.values()))

    def add(self, record: RequestRecord) -> None:
        self._records[record.request_id] = record
        if len(self._records) > self._kept:
            self._records.popitem(last=False)

    def add_straight(
        self,
        request_id: str,
        path: str,
        model: str,
        prompt_tokens: int,
        max_output_tokens: int,
        arrived_at_unix_s: float,
        node_id: NodeId,
        decision: Decision | None,
        first_byte_s: float,
        total_s: float,
    ) -> None:
        """A request that is over and had nothing unusual: one decision, one completed attempt, status 200, no stream.
        Its record is made when somebody looks, which is seldom. Seconds are since its arrival."""
        records = self._records
        records[request_id] = (
            request_id, path, model, prompt_tokens, max_output_tokens, arrived_at_unix_s,
            node_id, decision, first_byte_s, total_s,
        )  # fmt: skip
        if len(records) > self._kept:
            records.popitem(last=False)

    def get(self, request_id: str) -> RequestRecord | None:
        found = self._records.get(request_id)
        return None if found is None else self._made(found)

    def _made(self, kept: RequestRecord | _Straight) -> RequestRecord:
        """Who asks twice is given the same record."""
        if isinstance(kept, RequestRecord):
            return kept
        record = self._records[kept[0]] = _straight_record(kept)
        return record


def _straight_record(kept: _Straight) -> RequestRecord:
    """Its attempt began when it arrived: nobody had to be asked."""
    (request_id, path, model, prompt_tokens, max_output_tokens, arrived_at_unix_s,
     node_id, decision, first_byte_s, total_s) = kept  # fmt: skip
    return RequestRecord(
        request_id=request_id,
        path=path,
        model=model,
        streaming=False,
        prompt_tokens=prompt_tokens,
        max_output_tokens=max_output_tokens,
        arrived_at_unix_s=arrived_at_unix_s,
        decisions=[] if decision is None else [decision],
        attempts=[AttemptRecord(1, node_id, 0.0, COMPLETED, first_byte_s, total_s)],
        status=200,
        node_id=node_id,
        first_byte_s=first_byte_s,
        total_s=total_s,
    )
