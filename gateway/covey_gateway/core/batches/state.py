"""The life of a batch: its record, which status may follow which, and what is to be done next.

Every change is a pure function from one record to the next; the store writes it in one transaction. Whoever comes
back after a crash needs nothing but the record: `next_step` tells.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from covey_gateway.core.batches.lines import LineError


class Status(enum.Enum):
    """OpenAI's words."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


FOLLOWS: Mapping[Status, frozenset[Status]] = {
    Status.VALIDATING: frozenset({Status.IN_PROGRESS, Status.FAILED, Status.CANCELLING}),
    Status.IN_PROGRESS: frozenset({Status.FINALIZING, Status.CANCELLING}),
    Status.FINALIZING: frozenset({Status.COMPLETED, Status.EXPIRED}),
    Status.CANCELLING: frozenset({Status.CANCELLED}),
    Status.FAILED: frozenset(),
    Status.COMPLETED: frozenset(),
    Status.EXPIRED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""A pair that is not here raises IllegalChangeError."""

ENDED = frozenset(status for status, following in FOLLOWS.items() if not following)

EXPIRED_CODE, CANCELLED_CODE = "batch_expired", "batch_cancelled"


class IllegalChangeError(Exception):
    """Our own bug, or a client's wish that comes too late."""


class Step(enum.Enum):
    """What a batch needs next. WIND_UP: no line is to be asked any more. SETTLE: lines without an answer get an error
    line. CLOSE: make the result files."""

    VALIDATE = "validate"
    RUN = "run"
    STOP_RUNNING = "stop_running"
    WIND_UP = "wind_up"
    SETTLE = "settle"
    CLOSE = "close"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class TokensUsed:
    """As the engines counted; 0 where they did not say."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


NO_TOKENS = TokensUsed()


@dataclass(frozen=True, slots=True)
class Batch:
    """`at_s`: status -> when it was reached (Unix time). `unfinished_code`: why lines were left without an answer."""

    id: str
    user: str
    endpoint: str
    input_file_id: str
    window: str
    created_at_s: int
    expires_at_s: int
    status: Status = Status.VALIDATING
    metadata: Mapping[str, str] = field(default_factory=dict)
    at_s: Mapping[str, int] = field(default_factory=dict)
    errors: Sequence[LineError] = ()
    model: str = ""
    total: int = 0
    completed: int = 0
    failed: int = 0
    output_bytes: int = 0
    error_bytes: int = 0
    tokens: TokensUsed = NO_TOKENS
    output_file_id: str = ""
    error_file_id: str = ""
    output_kept_s: int = 0
    unfinished_code: str = ""

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def outstanding(self) -> int:
        """Lines that have neither an answer nor an error yet."""
        return self.total - self.completed - self.failed


def moved(batch: Batch, status: Status, now_s: float) -> Batch:
    """Raises IllegalChangeError."""
    if status not in FOLLOWS[batch.status]:
        raise IllegalChangeError(f"a batch that is {batch.status.value} cannot become {status.value}")
    return replace(batch, status=status, at_s={**batch.at_s, status.value: int(now_s)})


def accepted(batch: Batch, now_s: float, total: int, model: str) -> Batch:
    """The input file is good."""
    return replace(moved(batch, Status.IN_PROGRESS, now_s), total=total, model=model)


def rejected(batch: Batch, now_s: float, errors: Sequence[LineError]) -> Batch:
    """The input file is not; nothing was asked."""
    return replace(moved(batch, Status.FAILED, now_s), errors=tuple(errors))


def cancelled_by_user(batch: Batch, now_s: float) -> Batch:
    """Asking twice changes nothing. Raises IllegalChangeError where the batch has ended or is about to."""
    if batch.status in (Status.CANCELLING, Status.CANCELLED):
        return batch
    return replace(moved(batch, Status.CANCELLING, now_s), unfinished_code=CANCELLED_CODE)


def wound_up(batch: Batch, now_s: float) -> Batch:
    """No line is running any more: every one is answered, or the time is over."""
    code = EXPIRED_CODE if batch.outstanding else ""
    return replace(moved(batch, Status.FINALIZING, now_s), unfinished_code=code)


def closed(batch: Batch, now_s: float, output_file_id: str, error_file_id: str) -> Batch:
    """Every line has its place in one of the files. An id is "" where its file would be empty."""
    assert not batch.outstanding, "a batch was closed with lines left"
    last = Status.CANCELLED if batch.status is Status.CANCELLING else Status.COMPLETED
    if batch.status is Status.FINALIZING and batch.unfinished_code:
        last = Status.EXPIRED
    return replace(moved(batch, last, now_s), output_file_id=output_file_id, error_file_id=error_file_id)


def next_step(batch: Batch, now_s: float, running: int) -> Step:
    """`running`: lines in flight, or answered and not yet on disk."""
    if batch.ended:
        return Step.NOTHING
    if batch.status is Status.VALIDATING:
        return Step.VALIDATE
    over = batch.status is not Status.IN_PROGRESS or now_s >= batch.expires_at_s
    if running and over:
        return Step.STOP_RUNNING
    if batch.status is Status.IN_PROGRESS:
        return Step.WIND_UP if over or not (batch.outstanding or running) else Step.RUN
    return Step.SETTLE if batch.outstanding else Step.CLOSE
