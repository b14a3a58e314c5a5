"""Fairness, room for others, classes and charges of the leader, by its events and answers, in virtual time."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from tests.support.scheduling import GATEWAY, MODEL, Leader, ask, member, model_load, node, updated, view

from covey_mesh.core.asking import Ask, AttemptReport, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import Member
from covey_mesh.core.marks import mark_of
from covey_scheduler.core import events
from covey_scheduler.core.charges import Charge, true_charge
from covey_scheduler.core.fairness import AHEAD_TOKENS_MAX, VirtualCounters
from covey_scheduler.core.room import Audience, Here, Room, fair_share
from covey_scheduler.core.scheduler import Scheduler
from covey_scheduler.core.settings import SchedulerSettings

SETTINGS = SchedulerSettings()
PLACES_ALONE = SchedulerSettings(start_ahead_s=3600.0, crowd_ahead_s=3600.0)
"""Places alone decide who is busy, not the prompts before an ask."""


def machine(number: int = 1, **load: Any) -> Member:
    return member(node(number), model_load(**({"running_limit": 16, "kv_cache_tokens_total": 0} | load)))


def flood(leader: Leader, user: str, count: int, **fields: Any) -> Counter[Outcome]:
    asked = (leader.ask(ask(f"{user}{i}", user=user, **fields)) for i in range(count))
    return Counter(answer.outcome for answers in asked for answer in answers)


# --- room for others ------------------------------------------------------------------------------------------


def test_a_flood_leaves_places_and_another_user_gets_one_at_once() -> None:
    leader = Leader([machine(running_limit=64)], PLACES_ALONE)
    assert flood(leader, "heavy", 100) == {Outcome.ASSIGNED: 56, Outcome.QUEUED: 44}
    (answer,) = leader.ask(ask("single", user="light"))
    assert answer.outcome is Outcome.ASSIGNED


def test_with_few_places_one_is_kept_once_somebody_else_was_heard() -> None:
    alone = Leader([machine(running_limit=4)], PLACES_ALONE)
    assert flood(alone, "heavy", 10)[Outcome.ASSIGNED] == 4
    shared = Leader([machine(running_limit=4)], PLACES_ALONE)
    shared.placed(ask("before", user="light"))
    shared.report("before", node_id=node(1), output_tokens=5)
    assert flood(shared, "heavy", 10)[Outcome.ASSIGNED] == 3
    assert shared.placed(ask("again", user="light")) == node(1)


def test_a_machine_with_one_place_is_shared_in_turn() -> None:
    leader = Leader([machine(running_limit=1)], PLACES_ALONE)
    leader.placed(ask("before", user="light"))
    leader.report("before", node_id=node(1), output_tokens=5)
    flood(leader, "heavy", 5)
    leader.ask(ask("single", user="light"))
    (answer,) = leader.report("heavy0", node_id=node(1), output_tokens=5)
    assert (answer.request_id, answer.outcome) == ("single", Outcome.ASSIGNED)


def test_below_a_fair_share_all_of_the_machine_may_be_used() -> None:
    leader = Leader([machine(running_limit=16)], PLACES_ALONE)
    for user in "abcdefgh":
        assert flood(leader, user, 1)[Outcome.ASSIGNED] == 1
    assert flood(leader, "i", 1) == {Outcome.ASSIGNED: 1}
    assert [fair_share(places, users) for places, users in ((64, 1), (64, 2), (3, 9), (0, 1))] == [32, 21, 1, 1]


def test_a_floods_next_prompt_waits_until_the_last_one_is_nearly_computed() -> None:
    leader = Leader([machine(running_limit=4)])
    leader.placed(ask("before", user="light"))
    leader.report("before", node_id=node(1), output_tokens=5)
    # 100 tokens at 1,000 a second: 0.1 s each.
    assert flood(leader, "heavy", 10)[Outcome.ASSIGNED] == 1
    started = {}
    while leader.now_s < 100.3:
        leader.now_s = leader.scheduler.wake_at_s or 100.3
        started |= {a.request_id: round(leader.now_s - 100.0, 3) for a in leader.tick()}
    # With the step of the batch that computes it: 10 ms alone, 7 % more for each further stream.
    assert started == {"heavy1": 0.091, "heavy2": 0.192}, "as the prompts before have 0.02 s left; one place is kept"
    leader.now_s = 100.2
    assert leader.placed(ask("single", user="light")) == node(1), "who is light need not wait for the prompt"


def test_short_prompts_of_a_flood_share_a_step_of_the_batch() -> None:
    """At 100 ms a token, prompts of 2 ms one to a step would leave a large engine empty."""
    leader = Leader([machine(running_limit=256, decode_tokens_per_s=10.0, prefill_tokens_per_s=5000.0)])
    leader.placed(ask("before", user="light"))
    leader.report("before", node_id=node(1), output_tokens=5)
    started = flood(leader, "heavy", 100, prompt_tokens=10)[Outcome.ASSIGNED]
    until_s = leader.now_s + 0.1
    while (leader.scheduler.wake_at_s or until_s) < until_s:
        leader.now_s = leader.scheduler.wake_at_s or until_s
        started += len(leader.tick())
    assert started > 20, "a prompt of 2 ms each 4 ms, and some at once"


def test_several_gateways_are_one_user() -> None:
    leader = Leader([machine(running_limit=64)], PLACES_ALONE)
    outcomes: Counter[Outcome] = Counter()
    for i in range(80):
        (answer,) = leader.ask(ask(f"r{i}", user="heavy"), gateway=node(100 + i % 4))
        outcomes[answer.outcome] += 1
    assert outcomes == {Outcome.ASSIGNED: 56, Outcome.QUEUED: 24}


def test_a_flood_is_started_in_turn_with_everybody_elses() -> None:
    leader = Leader([machine(running_limit=1)], PLACES_ALONE)
    flood(leader, "heavy", 20)
    for i in range(5):
        leader.ask(ask(f"light{i}", user="light"))
    order = ["heavy0"]
    while len(order) < 11:
        (answer,) = leader.report(order[-1], node_id=node(1), output_tokens=100)
        order.append(answer.request_id)
    assert Counter(name[:5] for name in order[1:]) == {"light": 5, "heavy": 5}


def test_kv_cache_is_kept_for_others_too() -> None:
    here = Here(0.125, 1, 0.02)
    assert [here.places(limit) for limit in (64, 8, 4, 1)] == [56, 7, 3, 1]
    leader = Leader([machine(kv_cache_tokens_total=2000, kv_cache_tokens_free=2000)], PLACES_ALONE)
    assert flood(leader, "heavy", 12)[Outcome.ASSIGNED] == 8, "200 tokens each, 250 kept"
    assert leader.placed(ask("single", user="light")) == node(1)


def test_nobody_by_name_is_no_crowd() -> None:
    leader = Leader([machine(running_limit=16)], PLACES_ALONE)
    assert flood(leader, "", 20)[Outcome.ASSIGNED] == 16


# --- classes --------------------------------------------------------------------------------------------------


def test_batch_work_holds_half_of_a_machine_beside_other_work_and_all_of_it_alone() -> None:
    alone = Leader([machine(running_limit=8)], PLACES_ALONE)
    assert flood(alone, "jobs", 10, priority=2)[Outcome.ASSIGNED] == 7
    shared = Leader([machine(running_limit=8)], replace(PLACES_ALONE, pressing_remembered_s=5.0))
    shared.placed(ask("person", user="person", priority=0))
    assert flood(shared, "jobs", 10, priority=2)[Outcome.ASSIGNED] == 4
    shared.now_s += 6.0
    assert len(shared.tick()) == 2, "the person has gone: 7 places but one"


def test_queued_batch_work_never_goes_before_interactive_work() -> None:
    leader = Leader([machine(running_limit=1)], PLACES_ALONE)
    leader.placed(ask("first", user="a"))
    flood(leader, "jobs", 5, priority=2)
    leader.ask(ask("person", user="a", priority=0))
    (answer,) = leader.report("first", node_id=node(1), output_tokens=100_000)
    assert answer.request_id == "person", "although its user was served far more"


def test_batch_work_is_late_but_never_starved() -> None:
    leader = Leader([machine(running_limit=1)], PLACES_ALONE)
    leader.placed(ask("p0", user="person", priority=0))
    leader.ask(ask("job", user="jobs", priority=2))
    served = []
    for i in range(1, 60):
        leader.ask(ask(f"p{i}", user="person", priority=0))
        leader.now_s += 1.0
        (answer,) = leader.report(f"p{i - 1}", node_id=node(1), output_tokens=10)
        served.append(answer.request_id)
        if answer.request_id == "job":
            break
    assert served[-1] == "job"
    assert 2 * SETTINGS.ageing_s <= len(served) <= 2 * SETTINGS.ageing_s + 2


# --- counters -------------------------------------------------------------------------------------------------


def test_refused_work_is_not_charged_and_counts_against_no_machine() -> None:
    leader = Leader([machine(1), machine(2, decode_tokens_per_s=50.0)])
    assert leader.placed(ask("r", user="u")) == node(1)
    leader.report("r", node_id=node(1), failed=True, refused=True)
    assert leader.scheduler._queues.counters(MODEL).of("u") == 0.0
    assert leader.placed(ask("s", user="u")) == node(1), "a full machine is no failing one"


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"output_tokens": 10}, Charge(90.0, 20.0)),
        ({"output_tokens": 10, "prompt_tokens": 120}, Charge(120.0, 20.0)),
        ({"output_tokens": 10, "prompt_tokens": 120, "cached_prompt_tokens": 100}, Charge(30.0, 20.0)),
        ({"output_tokens": 10, "prompt_tokens": 120, "cached_prompt_tokens": 10**12}, Charge(12.0, 20.0)),
        ({"output_tokens": -5}, Charge(90.0, 0.0)),
        ({"failed": True}, Charge()),
        ({"failed": True, "output_tokens": 3}, Charge(90.0, 6.0)),
        ({"failed": True, "refused": True}, Charge()),
        ({"refused": True}, Charge()),
        ({"withdrawn": True}, Charge()),
    ],
)
def test_true_charges(report: dict[str, Any], expected: Charge) -> None:
    found = true_charge(Charge(90.0, 200.0), AttemptReport("r", 1, **report), SETTINGS)
    assert found == pytest.approx(expected)


def test_a_correction_below_the_floor_lets_nobody_gain_on_those_who_came_later() -> None:
    counters = VirtualCounters(10)
    counters.charge("a", 500, last_waiting=True)
    counters.charge("a", -400, last_waiting=True)
    counters.join("b", [])
    assert counters.of("b") == 500


# --- a new leader ---------------------------------------------------------------------------------------------


def ahead_of(leader: Leader, request: Any) -> int:
    (answer,) = leader.ask(request)
    assert answer.outcome is Outcome.ASSIGNED
    return int(answer.user_ahead_tokens)


def new_leader(*asks: Ask) -> list[str]:
    """The order in which a new leader of one machine with one place serves what it hears while it collects."""
    members = [machine(running_limit=1), member(node(2))]
    scheduler = Scheduler(node(1), PLACES_ALONE)
    scheduler.step(9.0, events.ViewChanged(view(*members)))
    scheduler.step(10.0, events.BecameLeader(Ballot(2, node(1))))
    for each in asks:
        scheduler.step(10.1, events.AskReceived(GATEWAY, each))
    order = [reply.answer.request_id for reply in scheduler.step(10.31, events.Tick())]
    while len(order) < len(asks):
        replies = scheduler.step(10.4, events.Reported(GATEWAY, AttemptReport(order[-1], 1, node(1), output_tokens=1)))
        order += [reply.answer.request_id for reply in replies]
    return order


def test_how_far_a_user_is_ahead_survives_the_leader() -> None:
    heavy = ask("heavy", user="heavy", waited_s=9.0)
    light = ask("light", user="light", waited_s=1.0)
    assert new_leader(heavy, light) == ["heavy", "light"]
    told = replace(heavy, user_ahead_tokens=2000)
    assert new_leader(told, light) == new_leader(light, told) == ["light", "heavy"], "whoever is heard first"


def test_answers_shorter_than_expected_put_no_newcomer_behind() -> None:
    leader = Leader([machine(running_limit=2)], PLACES_ALONE)
    flood(leader, "heavy", 9, max_output_tokens=1000)
    leader.ask(ask("light", user="light"))
    (answer,) = leader.report("heavy0", node_id=node(1), output_tokens=1)
    assert answer.request_id == "light", "512 weighted tokens were given back to the other one"


def test_an_assignment_says_how_far_ahead_its_user_is() -> None:
    leader = Leader([machine(running_limit=2)], PLACES_ALONE)
    assert ahead_of(leader, ask("a", user="heavy")) == 0, "nobody else is there"
    leader.placed(ask("b", user="heavy"))
    leader.ask(ask("c", user="heavy"))
    leader.ask(ask("d", user="light"))
    (answer,) = leader.report("a", node_id=node(1), output_tokens=100)
    assert answer.request_id == "d"
    (answer,) = leader.report("b", node_id=node(1), output_tokens=100)
    assert (answer.request_id, answer.user_ahead_tokens) == ("c", 0)


def test_what_is_told_is_believed_within_a_bound_and_only_of_strangers() -> None:
    counters = VirtualCounters(10)
    counters.join("liar", [], ahead=1e18)
    assert counters.of("liar") == AHEAD_TOKENS_MAX
    counters.join("known", ["liar"], ahead=5.0)
    counters.join("known", [], ahead=1e6)
    assert counters.of("known") == AHEAD_TOKENS_MAX + 5.0
    counters.join("negative", ["liar"], ahead=-1e6)
    assert counters.of("negative") == AHEAD_TOKENS_MAX


def running(name: str, user: str = "heavy", on: int = 1, **fields: Any) -> Ask:
    """What a gateway tells a new leader of an attempt that runs."""
    return ask(name, user=user, running_on=node(on), **fields)


def test_places_held_are_known_to_a_new_leader() -> None:
    """Of 16 places 14 are one user's, told by the gateways: to the new leader they are no strangers'."""
    leader = Leader([machine(running_limit=16, running_requests=14)], PLACES_ALONE)
    for number in range(14):
        assert leader.ask(running(f"r{number}", user_ahead_tokens=500)) == [], "no question"
    assert leader.scheduler._pool.holdings.of(MODEL, "heavy") == 14
    (answer,) = leader.ask(ask("one more", user="heavy"))
    assert answer.outcome is Outcome.QUEUED, "two places are kept for others"
    assert leader.placed(ask("single", user="light")) == node(1)
    assert leader.report("r0", node_id=node(1), output_tokens=10) == [], "14 run again"
    (freed,) = leader.report("r1", node_id=node(1), output_tokens=10)
    assert freed.request_id == "one more"


def test_what_a_told_request_costs_is_charged_once() -> None:
    leader = Leader([machine(running_requests=1)], PLACES_ALONE)
    for _ in range(2):
        leader.ask(running("r", user_ahead_tokens=500))
    counters = leader.scheduler._queues.counters(MODEL)
    assert counters.of("heavy") == 500 + 200, "what the leader before had counted, and the answer to come"
    assert counters.ahead("heavy", ()) == 500
    leader.report("r", node_id=node(1), output_tokens=10, prompt_tokens=100)
    assert counters.of("heavy") == 500 + 20, "its prompt was charged before"


def test_a_told_request_ends_with_its_gateway_or_when_its_machine_has_it_no_longer() -> None:
    leader = Leader([machine(running_requests=2)], PLACES_ALONE)
    holdings = leader.scheduler._pool.holdings
    for name in ("a", "b"):
        leader.ask(running(name))
    left = model_load(running_limit=16, running_requests=1, marks=frozenset({mark_of("a", 1)}))
    leader.see(updated(leader.members[node(1)], left))
    assert holdings.of(MODEL, "heavy") == 1
    leader._step(events.GatewayLost(GATEWAY))
    assert len(holdings) == len(leader.scheduler._pool.inflight) == 0


def test_what_is_told_of_no_machine_or_of_an_older_attempt_is_nothing() -> None:
    leader = Leader([machine()], PLACES_ALONE)
    assert leader.ask(running("r", on=9)) == []
    leader.placed(ask("s", attempt=2, user="heavy"))
    assert leader.ask(running("s")) == []
    assert leader.scheduler._pool.holdings.of(MODEL, "heavy") == 1
    leader.ask(running("t"))
    (answer,) = leader.ask(ask("t", user="heavy"))
    assert answer.outcome is Outcome.ASSIGNED, "an odd gateway asks for what runs: it gets an answer with its record"
    assert answer.decision is not None


def test_who_has_asked_nothing_yet_gains_nothing_by_a_change_of_leader() -> None:
    """Told in differences, not in totals: a user without a past starts where the one served least stands."""
    counters = VirtualCounters(10)
    counters.join("new", [])
    counters.join("heavy", ["new"], ahead=300.0)
    assert counters.ahead("heavy", ["new"]) == 300.0
    counters.charge("new", 300.0, last_waiting=False)
    assert counters.ahead("heavy", ["new"]) == 0.0


def test_places_held_end_with_their_assignments() -> None:
    leader = Leader([machine(running_limit=16), machine(2, running_limit=16)], PLACES_ALONE)
    flood(leader, "heavy", 12, priority=2)
    holdings = leader.scheduler._pool.holdings
    assert (len(holdings), holdings.of(MODEL, "heavy"), sum(holdings.batch(MODEL).values())) == (12, 12, 12)
    leader.report("heavy0", node_id=node(1), output_tokens=1)
    leader.see(gone=[node(2)])
    assert len(holdings) == len(leader.scheduler._pool.inflight) == holdings.of(MODEL, "heavy")
    leader._step(events.GatewayLost(GATEWAY))
    assert (len(holdings), holdings.of(MODEL, "heavy"), holdings.batch(MODEL)) == (0, 0, {})
    flood(leader, "heavy", 4)
    leader._step(events.LostLeadership())
    leader._step(events.BecameLeader(Ballot(3, node(1))))
    assert len(holdings) == 0


# --- the audience ---------------------------------------------------------------------------------------------


def test_the_audience_remembers_two_users_a_model_and_so_many_models() -> None:
    audience = Audience(SchedulerSettings(models_max=3))
    for i in range(50):
        audience.heard(f"m{i}", f"u{i}", 2, float(i))
    audience.heard("m49", "v", 1, 50.0)
    assert len(audience._models) == 3
    assert audience.others("m49", "v", 50.0)
    assert not audience.others("m49", "v", 49.0 + SETTINGS.others_remembered_s + 1)
    assert not audience.others("m0", "x", 50.0)
    assert audience.pressing("m49", 60.0)
    assert not audience.pressing("m48", 60.0)


@pytest.mark.parametrize(
    ("held", "others", "batch", "expected"),
    [
        (0, True, None, Here(0.0, 0, 0.25)),
        (7, False, None, Here(0.0, 0, 0.25)),
        (7, True, None, Here(0.0, 0, 0.02, by_step=True)),
        (8, False, None, Here(0.125, 0, 0.25)),
        (8, True, None, Here(0.125, 1, 0.02, by_step=True)),
        (0, False, 0, Here(0.125, 1, 0.02, by_step=True)),
        (0, False, 7, Here(0.125, 1, 0.02, by_step=True)),
        (0, False, 8, Here(0.125, 1, 0.02, True, by_step=True)),
    ],
)
def test_what_an_ask_may_take_of_a_machine(held: int, others: bool, batch: int | None, expected: Here) -> None:
    """16 places, one user: 8 are a fair share."""
    room = Room({node(1): held}, 1, others, None if batch is None else {node(1): batch}, SETTINGS)
    assert room.here(node(1), 16) == expected
    yields = batch is not None
    assert room.here(node(2), 0) == Here(0.0, 0, SETTINGS.crowd_ahead_s if yields else 0.25, by_step=yields)


# --- asks that cannot start -----------------------------------------------------------------------------------


def test_asks_of_one_user_that_cannot_start_do_not_keep_another_user_waiting() -> None:
    leader = Leader([machine(running_requests=16)], PLACES_ALONE)
    for i in range(40):
        leader.ask(ask(f"heavy{i}", user="heavy", excluded={node(1): "resource_exhausted: full"}, waited_s=9.0))
    leader.ask(ask("light", user="light"))
    answers = leader.see(updated(leader.members[node(1)], model_load(running_limit=16, kv_cache_tokens_total=0)))
    assert [(a.request_id, a.outcome) for a in answers] == [("light", Outcome.ASSIGNED)]


def test_a_repeated_ask_brings_what_its_gateway_says_now() -> None:
    leader = Leader([machine(), machine(2, running_requests=16)], PLACES_ALONE)
    waiting = ask("r", user="u", excluded={node(1): "resource_exhausted: full"})
    assert leader.ask(waiting)[0].outcome is Outcome.QUEUED
    assert leader.ask(replace(waiting, excluded={}))[0].outcome is Outcome.QUEUED
    (answer,) = leader.tick(0.2)
    assert (answer.request_id, answer.node_id) == ("r", node(1))


@pytest.mark.parametrize("waiting", [(), ("light", "heavy")])
def test_service_is_a_charge_and_how_far_ahead_it_puts_the_user(waiting: tuple[str, ...]) -> None:
    stepwise, at_once = (VirtualCounters(10, lambda user: 30.0) for _ in range(2))
    for user, tokens in (("heavy", 100.0), ("light", 20.0), ("heavy", 50.0), ("light", -5.0)):
        stepwise.charge(user, tokens, last_waiting=not waiting)
        assert at_once.served(user, tokens, waiting) == stepwise.ahead(user, waiting)
    assert (at_once.of("heavy"), at_once.of("light")) == (stepwise.of("heavy"), stepwise.of("light"))
