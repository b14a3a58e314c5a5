"""The record of a decision, made from a ranking: what `covey explain` shows.

Most records are never read, so a record's verdicts are worked out when somebody looks at them: from the ranking, which
never changes, hence with the same result at any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

from covey_mesh.core.asking import CandidateVerdict, Tallied
from covey_scheduler.core.filters import Rejection
from covey_scheduler.core.policy import Ranking
from covey_scheduler.core.prediction import predict


class Verdicts(Tallied):
    """The verdicts of one ranking, made on first use."""

    __slots__ = ("_candidates_max", "_made", "_ranking", "_refused")

    def __init__(self, ranking: Ranking, candidates_max: int, refused: str = "") -> None:
        self._ranking: Ranking | None = ranking
        self._candidates_max = candidates_max
        self._refused = refused
        self._made: tuple[CandidateVerdict, ...] = ()

    def _verdicts(self) -> tuple[CandidateVerdict, ...]:
        if self._ranking is not None:
            self._made = verdicts(self._ranking, self._candidates_max, self._refused)
            self._ranking = None
        return self._made

    def tally(self) -> tuple[int, int]:
        """(passed, rejected), as the verdicts would show, without a prediction for each."""
        ranking = self._ranking
        if ranking is None:
            rejected = sum(1 for verdict in self._made if verdict.rejected_because)
            return len(self._made) - rejected, rejected
        machines, rejected = _counts(ranking, self._candidates_max)
        free = 0
        if not self._refused:
            for index in range(len(ranking.machines)):
                if not ranking.busy(index):
                    free += 1
                    if free == machines:
                        break
        return free, machines + rejected - free

    def __len__(self) -> int:
        return len(self._verdicts())

    def __iter__(self) -> Iterator[CandidateVerdict]:
        return iter(self._verdicts())

    @overload
    def __getitem__(self, index: int) -> CandidateVerdict: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[CandidateVerdict, ...]: ...
    def __getitem__(self, index: int | slice) -> CandidateVerdict | tuple[CandidateVerdict, ...]:
        return self._verdicts()[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._verdicts() == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(verdict.node_id for verdict in self._verdicts()))


def verdicts(ranking: Ranking, candidates_max: int, refused: str = "") -> tuple[CandidateVerdict, ...]:
    """Free machines best first, then busy ones, then rejected ones; at most `candidates_max` in all.

    Room is kept for rejected machines too (a quarter), since their reasons are what people ask for. `refused` is why
    an ask that some machine could serve was not even queued.
    """
    best, rejected = _shown(ranking, candidates_max)
    return (*(_ranked(ranking, index, _both(reason, refused)) for index, reason in best), *map(_rejected, rejected))


def _both(reason: str, refused: str) -> str:
    return f"{reason}; {refused}" if reason and refused else reason or refused


def _shown(ranking: Ranking, candidates_max: int) -> tuple[list[tuple[int, str]], Sequence[Rejection]]:
    machines, rejected = _counts(ranking, candidates_max)
    return _best(ranking, machines), ranking.rejected[:rejected]


def _counts(ranking: Ranking, candidates_max: int) -> tuple[int, int]:
    """How many (machines that passed the filters, machines that did not) are shown."""
    machines, rejected = len(ranking.machines), len(ranking.rejected)
    rejected = min(rejected, max(candidates_max - machines, candidates_max // 4))
    return min(machines, candidates_max - rejected), rejected


def _best(ranking: Ranking, count: int) -> list[tuple[int, str]]:
    """Indices of the free machines by cost, then of the busy ones, each with its reason; of a large pool, only as many
    machines are asked whether they are busy as it takes."""
    free: list[tuple[int, str]] = []
    busy: list[tuple[int, str]] = []
    for index in sorted(range(len(ranking.costs)), key=ranking.costs.__getitem__):
        reason = ranking.busy(index)
        (busy if reason else free).append((index, reason))
        if len(free) >= count:
            break
    return [*free, *busy][:count]


def _ranked(ranking: Ranking, index: int, reason: str) -> CandidateVerdict:
    machine = ranking.machines[index]
    prediction = predict(ranking.question, machine, ranking.cached[index], ranking.settings)
    return CandidateVerdict(
        node_id=machine.candidate.machine.node_id,
        rejected_because=reason,
        first_token_s=prediction.first_token_s,
        last_token_s=prediction.last_token_s,
        terms_s=prediction.terms_s,
    )


def _rejected(rejection: Rejection) -> CandidateVerdict:
    return CandidateVerdict(node_id=rejection.candidate.machine.node_id, rejected_because=rejection.reason)
