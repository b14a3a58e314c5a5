"""The record of a decision, made from a ranking: what `covey explain` shows."""

from __future__ import annotations

from covey_mesh.core.asking import CandidateVerdict
from covey_scheduler.core.filters import Rejection
from covey_scheduler.core.policy import Ranked, Ranking


def verdicts(ranking: Ranking, candidates_max: int, refused: str = "") -> tuple[CandidateVerdict, ...]:
    """Free machines best first, then busy ones, then rejected ones; at most `candidates_max` in all.

    Room is kept for rejected machines too (a quarter), since their reasons are what people ask for. `refused` is why
    an ask that some machine could serve was not even queued.
    """
    passed = (*ranking.free, *ranking.waiting_for)
    room = max(candidates_max - len(passed), candidates_max // 4)
    rejected = ranking.rejected[:room]
    shown = passed[: candidates_max - len(rejected)]
    return (*(_ranked(each, refused) for each in shown), *(_rejected(each) for each in rejected))


def _ranked(ranked: Ranked, refused: str) -> CandidateVerdict:
    return CandidateVerdict(
        node_id=ranked.candidate.machine.node_id,
        rejected_because=refused or ranked.busy,
        first_token_s=ranked.prediction.first_token_s,
        last_token_s=ranked.prediction.last_token_s,
        terms_s=ranked.prediction.terms_s,
    )


def _rejected(rejection: Rejection) -> CandidateVerdict:
    return CandidateVerdict(node_id=rejection.candidate.machine.node_id, rejected_because=rejection.reason)
