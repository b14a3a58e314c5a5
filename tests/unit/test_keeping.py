"""Whether a machine is kept from a flooding user's long prompts, which one, and until when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.support.scheduling import GATEWAY, MODEL, Leader, ask, candidate, member, model_load, node

from covey_mesh.core.asking import Answer, Outcome
from covey_mesh.core.names import NodeId
from covey_scheduler.core.filters import KEPT_FREE
from covey_scheduler.core.keeping import CHOSEN_FOR_S, Keeping
from covey_scheduler.core.policies import PREDICTED
from covey_scheduler.core.policy import rank
from covey_scheduler.core.prediction import Question
from covey_scheduler.core.room import Kept, Room
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing, standing_of
from covey_scheduler.core.visitors import USERS_MAX, Visitor, Visitors

SETTINGS = SchedulerSettings()
NOW_S = 100.0


def standing(number: int, tokens_per_s: float = 4000.0) -> Standing:
    """Tokens of an answer take a hundredth of a second each."""
    found = candidate(model_load(prefill_tokens_per_s=tokens_per_s))
    return standing_of(replace(found, machine=replace(found.machine, node_id=node(number))), SETTINGS)


def machines(*speeds: float) -> list[Standing]:
    return [standing(number, speed) for number, speed in enumerate(speeds, 1)]


def visitor(
    on: Standing, *, seen_s: float = 0.1, pause_s: float | None = 0.1, prompt: int = 1000, together: float = 1.0
) -> Visitor:
    """Its last request ended so long ago."""
    found = Visitor(NOW_S - seen_s)
    found.pause_s, found.machine, found.prompt_tokens = pause_s, on, prompt
    found.answer_tokens, found.first_at_s, found.together = 16, NOW_S - 1.0, together
    return found


def kept(pool: Sequence[Standing], light: Visitor, *, requests: int = 0, flood: int = 100) -> Kept | None:
    keeping = Keeping(SETTINGS, lambda ask, now_s: pool)
    counts = {"heavy": flood, "light": requests}
    visitors = {"light": light, "heavy": Visitor(NOW_S)}
    return keeping.kept_from(ask(user="heavy"), visitors, counts.__getitem__, NOW_S)


def test_the_machine_that_the_other_user_was_on_is_kept() -> None:
    pool = machines(4000, 4000, 4000)
    assert kept(pool, visitor(pool[1])) == Kept(node(2), pytest.approx(0.075))


@pytest.mark.parametrize(
    ("speeds", "on", "prompt", "expected"),
    [
        ((4000, 2000, 1000), 2, 1000, 1),  # it would take twice as long there
        ((4000, 3500, 1000), 2, 1000, 2),  # hardly longer than on the first
        ((4000, 3500, 1000), 3, 1000, 2),  # of those as good as the first the slowest
        ((4000, 2000, 1000), 2, 100, 2),  # of a short prompt nobody sees the difference
        ((4000, 4000), 1, 1000, 1),
        ((4000, 2000), 1, 1000, 1),
        ((4000, 1000), 1, 1000, None),  # nearly all there is
        ((4000,), 1, 1000, None),
    ],
)
def test_which_machine_is_kept(speeds: tuple[float, ...], on: int, prompt: int, expected: int | None) -> None:
    pool = machines(*speeds)
    found = kept(pool, visitor(pool[on - 1], prompt=prompt))
    assert (None if found is None else found.node_id) == (None if expected is None else node(expected))


@pytest.mark.parametrize(
    ("seen_s", "pause_s", "awaited"),
    [
        (0.9, None, True),
        (1.1, None, False),
        (0.9, 0.1, True),
        (1.1, 0.1, False),
        (3.9, 2.0, True),
        (4.1, 2.0, False),
        (0.1, 3.0, False),  # usually away for longer than it is worth
    ],
)
def test_how_long_a_user_is_awaited(seen_s: float, pause_s: float | None, awaited: bool) -> None:
    pool = machines(4000, 4000, 4000)
    assert (kept(pool, visitor(pool[0], seen_s=seen_s, pause_s=pause_s)) is not None) == awaited


@pytest.mark.parametrize(("flood", "requests", "expected"), [(2, 0, False), (3, 0, True), (7, 2, False), (8, 2, True)])
def test_only_from_a_user_with_many_more_requests(flood: int, requests: int, expected: bool) -> None:
    pool = machines(4000, 4000, 4000)
    assert (kept(pool, visitor(pool[0]), flood=flood, requests=requests) is not None) == expected


def reading(pool: Sequence[Standing], begun_s: float, *, prompt: int = 1000, together: float = 1.0) -> Visitor:
    """Its answer of 100 tokens, a second long, began so long ago."""
    found = visitor(pool[0], prompt=prompt, together=together)
    found.answer_tokens, found.first_at_s = 100, NOW_S - begun_s
    return found


def test_not_while_the_user_waits_for_its_answer() -> None:
    """Half of the answer is sure to come."""
    pool = machines(4000, 4000, 4000)
    assert kept(pool, reading(pool, -0.1), requests=1) is not None, "its prompt is being computed"
    assert kept(pool, reading(pool, -0.01), requests=1) is None
    assert kept(pool, reading(pool, 0.35), requests=1) is None
    assert kept(pool, reading(pool, 0.45), requests=1) is not None
    assert kept(pool, reading(pool, 0.2), requests=0) is not None, "it has ended"
    assert kept(pool, reading(pool, 0.2, together=2.0), requests=1) is not None, "it may send another one meanwhile"


@pytest.mark.parametrize(("begun_s", "awaited"), [(2.9, True), (3.1, False), (60.0, False)])
def test_who_reads_a_much_longer_answer_than_expected_is_not_awaited_for_ever(begun_s: float, awaited: bool) -> None:
    """Two seconds were expected at most, and then it may come back within one."""
    pool = machines(4000, 4000, 4000)
    light = reading(pool, begun_s)
    light.seen_at_s = light.first_at_s
    assert (kept(pool, light, requests=1) is not None) == awaited


def test_a_small_machine_is_kept_for_short_prompts_all_the_time() -> None:
    third, half = machines(4000, 4000, 4000), machines(4000, 4000)
    assert kept(third, reading(third, 0.2, prompt=100), requests=1) is not None
    assert kept(half, reading(half, 0.2, prompt=100), requests=1) is None


def test_a_choice_is_kept_for_a_moment() -> None:
    pool, asked = machines(4000, 4000, 4000), []

    def machines_for(_: object, now_s: float) -> list[Standing]:
        asked.append(now_s)
        return pool

    keeping = Keeping(SETTINGS, machines_for)
    light = visitor(pool[0])
    for now_s in (NOW_S, NOW_S + 0.1, NOW_S + CHOSEN_FOR_S):
        keeping.kept_from(ask(user="heavy"), {"light": light}, {"heavy": 9, "light": 0}.__getitem__, now_s)
    light.went(pool[1], NOW_S + 0.3, 1000, 0.25, 16)
    keeping.kept_from(ask(user="heavy"), {"light": light}, {"heavy": 9, "light": 0}.__getitem__, NOW_S + 0.3)
    assert asked == [NOW_S, NOW_S + CHOSEN_FOR_S, NOW_S + 0.3]


# --- who comes and goes ---------------------------------------------------------------------------------------


def test_the_mean_pause_of_a_user_and_how_many_requests_it_has_at_once() -> None:
    visitors = Visitors(SETTINGS)
    assert visitors.came(MODEL, "a", 1, 10.0).pause_s is None
    visitors.left(MODEL, "a", 11.0)
    assert visitors.came(MODEL, "a", 1, 12.0).pause_s == pytest.approx(1.0)
    visitors.left(MODEL, "a", 13.0)
    found = visitors.came(MODEL, "a", 3, 15.0)
    assert (found.pause_s, found.together) == (pytest.approx(1.3), 3)
    assert visitors.came(MODEL, "a", 1, 16.0).together == pytest.approx(2.85)
    visitors.left(MODEL, "a", 20.0)
    assert visitors.came(MODEL, "a", 1, 26.0).pause_s is None, "another visit"


def test_a_few_users_of_so_many_models_are_remembered() -> None:
    visitors = Visitors(SchedulerSettings(models_max=3))
    for number in range(50):
        visitors.came(MODEL, f"u{number}", 1, float(number))
    assert list(visitors.of(MODEL)) == [f"u{number}" for number in range(50 - USERS_MAX, 50)]
    for number in range(50):
        visitors.came(f"m{number}", "a", 1, 100.0)
    assert not visitors.of(MODEL)
    assert len(visitors._models) == 3
    visitors.left("unknown", "a", 101.0)


# --- the leader -----------------------------------------------------------------------------------------------


def leader_with(*speeds: float) -> Leader:
    load = model_load(running_limit=64)
    return Leader([member(node(n), replace(load, prefill_tokens_per_s=speed)) for n, speed in enumerate(speeds, 1)])


def visit(leader: Leader) -> NodeId:
    """Three requests of the light user, one after the other; where the last one was."""
    for number in range(3):
        (answer,) = leader.ask(ask(f"l{number}", user="light", prompt_tokens=1000, max_output_tokens=16))
        leader.tick(0.5)
        leader.report(f"l{number}", output_tokens=16)
        leader.tick(0.1)
    assert answer.node_id is not None
    return answer.node_id


def given(answers: Sequence[Answer]) -> list[NodeId]:
    return [a.node_id for a in answers if a.outcome is Outcome.ASSIGNED and a.node_id is not None]


def flood(leader: Leader, prompt_tokens: int, count: int = 12) -> list[Answer]:
    return [
        answer
        for number in range(count)
        for answer in leader.ask(
            ask(f"f{number}", user="heavy", prompt_tokens=prompt_tokens, max_output_tokens=100), GATEWAY
        )
    ]


def test_a_flood_leaves_the_machine_of_a_user_who_is_about_to_come_back() -> None:
    leader = leader_with(4000, 4000, 4000)
    on = visit(leader)
    answers = flood(leader, 1000)
    others = given(answers)
    for _ in range(8):
        others += given(leader.tick(0.1))
    assert len(others) >= 6, "two machines compute four prompts a second each"
    assert on not in others
    queued = next(a.decision for a in answers if a.outcome is Outcome.QUEUED and a.decision is not None)
    assert KEPT_FREE in {verdict.rejected_because for verdict in queued.candidates}
    (light,) = leader.ask(ask("l9", user="light", prompt_tokens=1000, max_output_tokens=16))
    assert light.node_id == on


@pytest.mark.parametrize(("prompt_tokens", "passed_over"), [(1000, True), (100, False)])
def test_nobody_waits_for_a_kept_machine(prompt_tokens: int, passed_over: bool) -> None:
    """Who it is kept for would find it planned for others."""
    pool = machines(4000, 1000)
    room = Room({}, 2, True, None, SETTINGS, Kept(node(1), 0.075))
    question = Question(ask(user="heavy", prompt_tokens=prompt_tokens), 100, NOW_S)
    ranking = rank(question, pool, [0, 0], [], PREDICTED, SETTINGS, room)
    assert ranking.best() == (1 if passed_over else 0)
    assert (ranking.busy(0) == KEPT_FREE) == passed_over
    assert (ranking.costs[0] > 1000.0) == passed_over


def test_a_flood_takes_that_machine_when_nobody_came_back() -> None:
    leader = leader_with(4000, 4000, 4000)
    on = visit(leader)
    flood(leader, 1000, 40)
    late = [node_id for _ in range(20) for node_id in given(leader.tick(0.1))]
    assert on in late


def test_short_prompts_pass() -> None:
    leader = leader_with(4000, 4000, 4000)
    on = visit(leader)
    assert on in given(flood(leader, 250))[1:]


def test_a_user_alone_has_all_machines() -> None:
    leader = leader_with(4000, 4000, 4000)
    assert len(set(given(flood(leader, 1000)))) == 3


def test_what_is_known_of_users_goes_with_leadership() -> None:
    leader = leader_with(4000, 4000, 4000)
    visit(leader)
    pool = leader.scheduler._pool
    assert list(pool.visitors.of(MODEL)) == ["light"]
    pool.clear()
    assert not pool.visitors.of(MODEL)
