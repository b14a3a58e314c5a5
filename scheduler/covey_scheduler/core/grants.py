"""When an assignment also lets its gateway start more on the same machine without asking, and how much. Pure.

Where one machine alone serves a model and has plenty of room there is nothing to decide, and an ask costs more than
the rest of a short request's way. So little is granted that nothing goes wrong: places up to a share of the machine's
(`grant_share`), no more prompts before another than asks would bring there (`grant_prompt_s`), for a moment
(`grant_valid_s`).

Fairness: a grant is its gateway's, whoever asks there. So beside other users all prompts that wait at the machine, the
granted ones included, are held to what a user with work there may have before another's (`crowd_ahead_s`, room.py);
and of the places most are left to everybody in any case. What began under a grant is charged when it is told.

Not here: what is outstanding (granted.py), that nobody waits and no deadline presses (scheduler.py), and what a
gateway makes of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from covey_mesh.core.asking import GRANT_PROMPT_TOKENS_MAX, GRANT_REQUESTS_MAX, Grant
from covey_mesh.core.facts import EngineState
from covey_scheduler.core.filters import Rejection
from covey_scheduler.core.policy import Ranking
from covey_scheduler.core.prediction import prompt_s
from covey_scheduler.core.settings import SchedulerSettings

OUT_OF_IT = frozenset({"model_offered", "engine_running", "not_draining"})
"""Filters whose machines no request of the model could go to soon. One that is unreachable or about to be ready may be
back at any moment, and one with a shorter context takes shorter prompts."""

SHOWN_MOST = 16.0
"""What a machine has just shown counts up to so many times its measured speed."""

LIKE_IT = 4
"""Prompts granted are at most so many times what the requests granted would have if all were like the ask."""


def nobody_else(rejected: Sequence[Rejection]) -> bool:
    """True if none of the machines left out could take a request of this model soon."""
    return all(each.failed.name in OUT_OF_IT for each in rejected)


def places_left(ranking: Ranking, out_requests: int, settings: SchedulerSettings) -> int:
    """Of the share of its places that the only machine of this ranking may have in use, what the ask leaves; asked
    first, since it is what mostly says no. `out_requests` may start there already without an ask, or have, and were not
    told as over."""
    machine = ranking.machines[0]
    return int(machine.load.running_limit * settings.grant_share) - machine.running - machine.waiting - 1 - out_requests


def grant_with(
    ranking: Ranking,
    places: int,
    others: bool,
    out_requests: int,
    out_tokens: int,
    pace: float,
    settings: SchedulerSettings,
) -> Grant | None:
    """What comes with the assignment of this ask to the only machine of its ranking; None: nothing.

    `places`: left, at least one. `others`: other users were heard of lately. `out_tokens`: prompt tokens of
    `out_requests`. `pace`: prompt tokens a second that the machine has just shown.
    """
    question, machine, candidate = ranking.question, ranking.machines[0], ranking.machines[0].candidate
    ask, load, speeds = question.ask, machine.load, candidate.machine.speeds
    if ask.excluded or candidate.recent_failures or not speeds.measured or load.state is not EngineState.READY:
        return None
    within_s = settings.crowd_ahead_s if others else settings.grant_prompt_s
    left_s = max(0.0, machine.prompts_done_at_s - question.now_s)
    speed = 1.0 / machine.prefill_s_per_token
    before = (prompt_s(ask, machine, ranking.cached[0]) + left_s) * speed + out_tokens
    if pace > speed and not others:
        # It computes more than its measured speed says (short prompts beside each other, prefixes that it has).
        speed = min(pace, SHOWN_MOST * speed)
    tokens = min(int(within_s * speed - before), GRANT_PROMPT_TOKENS_MAX)
    # Requests are taken to be like this one, so that not much of the one is left when the other is used up.
    prompt = max(1, ask.prompt_tokens)
    requests = min(places, tokens // prompt, GRANT_REQUESTS_MAX)
    cache = load.kv_cache_tokens_total
    if cache and requests >= 1:
        need = prompt + question.output_tokens
        requests = min(
            requests, (int(cache * settings.grant_share) - machine.kv_tokens_held) // need - 1 - out_requests
        )
    if requests < 1:
        return None
    return Grant(requests, min(tokens, LIKE_IT * requests * prompt), settings.grant_valid_s)
