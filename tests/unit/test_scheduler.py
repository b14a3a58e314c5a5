"""The leader's scheduler by its events and answers: spreading, late binding, leader change, idempotence, refusals."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
from tests.support.scheduling import GATEWAY, MODEL, Leader, ask, member, model_load, node, updated, view

from covey_mesh.core.asking import AttemptReport, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import EngineState
from covey_scheduler.core import events
from covey_scheduler.core.scheduler import Scheduler
from covey_scheduler.core.settings import SchedulerSettings


def machine(number: int, **load: object) -> object:
    return member(node(number), model_load(**load))


AT_ONCE = SchedulerSettings(start_ahead_s=3600.0, crowd_ahead_s=3600.0)
"""Places alone decide who is busy, not the prompts before an ask."""


def full(number: int, **load: object) -> object:
    return machine(number, **({"running_requests": 4, "queued_tokens": 400} | load))


# --- one ask --------------------------------------------------------------------------------------------------


def test_the_fastest_machine_serves_and_the_record_says_why() -> None:
    leader = Leader([machine(1), machine(2, decode_tokens_per_s=300.0), member(node(3))])
    (answer,) = leader.ask(ask())
    assert (answer.outcome, answer.node_id) == (Outcome.ASSIGNED, node(2))
    decision = answer.decision
    assert decision is not None
    assert [v.node_id for v in decision.candidates] == [node(2), node(1), node(3)]
    assert decision.candidates[2].rejected_because == "does not offer the model"
    assert decision.candidates[0].terms_s.keys() == {"prefill", "decode"}
    assert (decision.decided_by, decision.decider, decision.view_version) == ("leader", node(1), 1)
    assert decision.why == "predicted: best of 2, 1 rejected, by leader"


def test_who_does_not_lead_does_not_answer() -> None:
    scheduler = Scheduler(node(1))
    scheduler.step(0.0, events.ViewChanged(view(machine(1))))
    assert scheduler.step(0.0, events.AskReceived(GATEWAY, ask())) == []
    assert scheduler.step(0.0, events.Reported(GATEWAY, AttemptReport("r", 1))) == []
    assert scheduler.wake_at_s is None


@pytest.mark.parametrize(
    ("machines", "request_fields", "reason", "retry_after_ms"),
    [
        ([], {}, None, 0),
        ([member(node(1))], {}, "does not offer", 0),
        ([machine(1)], {"prompt_tokens": 100_000}, "longer than its context", 0),
        ([machine(1)], {"excluded": {node(1): "refused"}}, "refused", 250),
        ([member(node(1), model_load(), draining=True)], {}, "draining", 2000),
        ([machine(1, state=EngineState.FAILED, detail="no memory")], {}, "engine is failed: no memory", 5000),
    ],
)
def test_nobody_could_ever_serve_it(
    machines: list[object], request_fields: dict[str, object], reason: str | None, retry_after_ms: int
) -> None:
    (answer,) = Leader(machines).ask(ask(**request_fields))
    assert (answer.outcome, answer.retry_after_ms) == (Outcome.NO_CANDIDATE, retry_after_ms)
    assert answer.decision is not None
    reasons = [v.rejected_because for v in answer.decision.candidates]
    assert reasons == [] if reason is None else reason in reasons[0]


def test_an_ask_waits_a_moment_for_a_machine_that_may_be_back() -> None:
    leader = Leader([machine(1, state=EngineState.BACKING_OFF)])
    (queued,) = leader.ask(ask())
    assert queued.outcome is Outcome.QUEUED
    assert leader.tick(1.0) == []
    (assigned,) = leader.see(machine(1))
    assert assigned.outcome is Outcome.ASSIGNED


def test_but_not_for_long() -> None:
    leader = Leader([machine(1, state=EngineState.BACKING_OFF)])
    leader.ask(ask())
    assert leader.tick(2.9) == []
    (answer,) = leader.tick(0.2)
    assert (answer.outcome, answer.retry_after_ms) == (Outcome.NO_CANDIDATE, 2000)


def test_a_prompt_that_a_machine_has_seen_goes_there_again() -> None:
    leader = Leader([machine(1, prefill_tokens_per_s=200.0), machine(2, prefill_tokens_per_s=200.0)], AT_ONCE)
    hashes = tuple(range(8))
    first = leader.placed(ask("a", prompt_tokens=1024, prefix_hashes=hashes))
    leader.report("a", node_id=first, output_tokens=100)
    assert leader.placed(ask("b", prompt_tokens=1024, prefix_hashes=hashes)) == first
    assert leader.placed(ask("c", prompt_tokens=1024, prefix_hashes=tuple(range(100, 108)))) != first


def test_a_prefix_hit_does_not_overload_its_machine() -> None:
    leader = Leader([machine(i, running_limit=64, prefill_tokens_per_s=200.0) for i in (1, 2)], AT_ONCE)
    hashes = tuple(range(8))
    placed = Counter(
        leader.placed(ask(f"r{i}", prompt_tokens=1024, prefix_hashes=hashes, max_output_tokens=200)) for i in range(40)
    )
    assert min(placed.values()) >= 10, placed


def test_a_machine_that_fails_fast_does_not_attract_everything() -> None:
    leader = Leader([machine(1, decode_tokens_per_s=110.0), machine(2)])
    assert leader.placed(ask("a")) == node(1)
    leader.report("a", node_id=node(1), failed=True)
    leader.report("b")
    assert leader.placed(ask("b")) == node(2)
    leader.report("b", node_id=node(2))
    leader.now_s += 60.0
    assert leader.placed(ask("c")) == node(1), "the failure is forgotten"


def test_a_success_forgives_a_machines_failures() -> None:
    leader = Leader([machine(1)])
    for request_id in ("a", "b"):
        leader.placed(ask(request_id))
    leader.report("a", node_id=node(1), failed=True)
    assert leader.scheduler._pool.failures.count(node(1), MODEL, leader.now_s) == 1
    leader.report("b", node_id=node(1), output_tokens=5)
    assert leader.scheduler._pool.failures.count(node(1), MODEL, leader.now_s) == 0


# --- many asks ------------------------------------------------------------------------------------------------


def test_fifty_asks_in_one_instant_spread_by_speed_over_unequal_machines() -> None:
    speeds = {1: 100.0, 2: 100.0, 3: 50.0, 4: 25.0}
    leader = Leader(
        (machine(n, decode_tokens_per_s=s, prefill_tokens_per_s=10 * s, running_limit=64) for n, s in speeds.items()),
        AT_ONCE,
    )
    placed = Counter(leader.placed(ask(f"r{i}")) for i in range(50))
    assert abs(placed[node(1)] - placed[node(2)]) <= 1, placed
    assert placed[node(1)] > 1.2 * placed[node(3)] > 1.2 * placed[node(4)], placed
    assert placed[node(1)] <= 25, placed


def test_equal_machines_share_evenly() -> None:
    leader = Leader((machine(n, running_limit=64) for n in range(1, 6)), AT_ONCE)
    placed = Counter(leader.placed(ask(f"r{i}")) for i in range(50))
    assert set(placed.values()) == {10}


def test_one_at_a_time_equal_machines_share_evenly_too() -> None:
    leader = Leader(machine(n) for n in range(1, 4))
    placed: Counter[object] = Counter()
    for i in range(30):
        placed[leader.placed(ask(f"r{i}"))] += 1
        leader.report(f"r{i}", output_tokens=100)
    assert set(placed.values()) == {10}


def test_no_more_than_the_free_places_are_assigned_and_the_rest_waits() -> None:
    leader = Leader([machine(1), machine(2)], AT_ONCE)
    outcomes = Counter(leader.ask(ask(f"r{i}"))[0].outcome for i in range(20))
    assert outcomes == {Outcome.ASSIGNED: 8, Outcome.QUEUED: 12}
    assert leader.scheduler.queue_lengths() == {MODEL: 12}


# --- late binding ---------------------------------------------------------------------------------------------


def test_queued_then_assigned_as_soon_as_a_place_frees() -> None:
    leader = Leader([full(1), full(2)])
    (queued,) = leader.ask(ask())
    assert queued.outcome is Outcome.QUEUED
    assert queued.decision is not None
    assert [v.rejected_because for v in queued.decision.candidates] == ["busy: 4 of 4 running"] * 2
    assert queued.decision.why.startswith("queued; ")
    assert leader.scheduler.wake_at_s == pytest.approx(leader.now_s + 0.1)
    leader.now_s += 2.0
    (assigned,) = leader.see(machine(2, running_requests=3))
    assert (assigned.outcome, assigned.node_id) == (Outcome.ASSIGNED, node(2))
    assert assigned.decision is not None
    assert assigned.decision.queued_for_s == pytest.approx(2.0)
    assert leader.scheduler.wake_at_s is None


def test_a_report_of_an_end_frees_the_place_at_once() -> None:
    leader = Leader([machine(1, running_limit=1)])
    leader.placed(ask("a"))
    leader.ask(ask("b"))
    (answer,) = leader.report("a", node_id=node(1), output_tokens=10)
    assert (answer.request_id, answer.outcome) == ("b", Outcome.ASSIGNED)


def test_an_expired_reservation_frees_the_place() -> None:
    leader = Leader([machine(1, running_limit=1)])
    leader.placed(ask("a"))
    leader.ask(ask("b"))
    assert leader.tick(9.9) == []
    (answer,) = leader.tick(0.2)
    assert (answer.request_id, answer.outcome) == ("b", Outcome.ASSIGNED)


def test_a_lost_gateways_reservations_free_their_places() -> None:
    leader = Leader([machine(1, running_limit=1)])
    leader.ask(ask("a"), gateway=node(7))
    leader.ask(ask("b"))
    (answer,) = leader._step(events.GatewayLost(node(7)))
    assert (answer.request_id, answer.outcome) == ("b", Outcome.ASSIGNED)


def test_waiting_for_a_fast_machine_rather_than_taking_a_very_slow_one() -> None:
    leader = Leader([full(1), machine(2, decode_tokens_per_s=2.0)])
    (queued,) = leader.ask(ask())
    assert queued.outcome is Outcome.QUEUED
    assert queued.decision is not None
    assert queued.decision.candidates[0].rejected_because == "a busy machine is faster"
    (assigned,) = leader.tick(10.1)
    assert assigned.node_id == node(2), "but not for ever"


def test_a_crowd_does_not_all_wait_for_the_fast_machine() -> None:
    leader = Leader([full(1), machine(2, decode_tokens_per_s=20.0, running_limit=16)])
    answers = [leader.ask(ask(f"r{i}"))[0] for i in range(16)]
    assert Outcome.ASSIGNED in {a.outcome for a in answers}


def test_an_ask_that_only_a_busy_machine_fits_blocks_nobody() -> None:
    leader = Leader([full(1, max_context_tokens=32_000), full(2)])
    leader.ask(ask("long", prompt_tokens=20_000))
    leader.ask(ask("short"))
    (answer,) = leader.see(machine(2, decode_tokens_per_s=100.0))
    assert (answer.request_id, answer.node_id) == ("short", node(2))


def test_turns_go_by_class_then_user_then_wait() -> None:
    leader = Leader([full(1, running_limit=4)], AT_ONCE)
    leader.ask(ask("batch", priority=2, user="a"))
    leader.ask(ask("normal", priority=1, user="a"))
    leader.ask(ask("urgent", priority=0, user="b"))
    order = [a.request_id for a in leader.see(machine(1, running_requests=0))]
    assert order == ["urgent", "normal", "batch"]


def test_no_later_ask_overtakes_a_waiting_one() -> None:
    leader = Leader([machine(1, running_limit=1)])
    leader.placed(ask("a"))
    leader.ask(ask("b", user="u"))
    leader.now_s += 10.0
    answers = leader.ask(ask("c", user="u"))
    assert [(a.request_id, a.outcome) for a in answers] == [("b", Outcome.ASSIGNED), ("c", Outcome.QUEUED)]


def test_deadline_and_withdrawal() -> None:
    leader = Leader([full(1)])
    leader.ask(ask("late", deadline_s=1.0))
    leader.ask(ask("gone"))
    leader.report("gone", withdrawn=True)
    (answer,) = leader.tick(1.0)
    assert (answer.request_id, answer.outcome) == ("late", Outcome.NO_CANDIDATE)
    assert answer.decision is not None
    assert "no machine was free within 1.0 s" in answer.decision.why
    assert leader.scheduler.queue_lengths() == {}


def test_a_stream_of_events_does_not_put_off_the_tick() -> None:
    leader = Leader([full(1)])
    leader.ask(ask("r"))
    due = leader.scheduler.wake_at_s
    leader.now_s += 0.05
    leader.see(full(1))
    assert leader.scheduler.wake_at_s == due


def test_asks_that_lost_their_last_machine_are_answered() -> None:
    leader = Leader([full(1)])
    for i in range(40):
        leader.ask(ask(f"r{i}"))
    leader.see(gone=[node(1)])
    answers = [a for _ in range(3) for a in leader.tick(0.1)]
    assert Counter(a.outcome for a in answers) == {Outcome.NO_CANDIDATE: 40}
    assert leader.scheduler.wake_at_s is None


def test_a_full_queue_refuses_with_a_time_to_come_back() -> None:
    leader = Leader([full(1)], SchedulerSettings(queue_length_max=2))
    answers = [a for i in range(3) for a in leader.ask(ask(f"r{i}"))]
    assert [a.outcome for a in answers] == [Outcome.QUEUED, Outcome.QUEUED, Outcome.NO_CANDIDATE]
    assert answers[2].retry_after_ms == 1000
    assert answers[2].decision is not None
    assert "queue is full" in answers[2].decision.why


# --- idempotence ----------------------------------------------------------------------------------------------


def test_a_duplicate_changes_nothing() -> None:
    leader = Leader([machine(1, running_limit=2), machine(2, running_limit=2)])
    (first,) = leader.ask(ask("r"))
    (second,) = leader.ask(ask("r"))
    assert first == second
    assert leader.scheduler._pool.inflight.extra(first.node_id, MODEL).requests == 1


def test_a_duplicate_of_a_queued_ask_is_told_so_again() -> None:
    leader = Leader([full(1)])
    leader.ask(ask("r"))
    (again,) = leader.ask(ask("r"))
    assert again.outcome is Outcome.QUEUED
    assert leader.scheduler.queue_lengths() == {MODEL: 1}


def test_a_newer_attempt_takes_the_place_of_the_older_and_an_older_one_is_ignored() -> None:
    leader = Leader([full(1)])
    leader.ask(ask("r", attempt=1))
    leader.ask(ask("r", attempt=2))
    assert leader.ask(ask("r", attempt=1)) == []
    assert leader.scheduler.queue_lengths() == {MODEL: 1}
    leader.report("r", attempt=1, withdrawn=True)
    assert leader.scheduler.queue_lengths() == {MODEL: 1}, "the older attempt's withdrawal is no withdrawal of this"
    (answer,) = leader.see(machine(1))
    assert (answer.attempt, answer.outcome) == (2, Outcome.ASSIGNED)


def test_a_newer_attempt_gives_back_the_reservation_of_the_older() -> None:
    leader = Leader([machine(1, running_limit=1), machine(2, running_limit=1, decode_tokens_per_s=90.0)])
    assert leader.placed(ask("r", attempt=1)) == node(1)
    assert leader.placed(ask("r", attempt=2, excluded={node(1): "refused"})) == node(2)
    assert leader.placed(ask("s")) == node(1)


def test_a_newer_attempt_does_not_wait_for_its_own_older_one() -> None:
    leader = Leader([machine(1, running_limit=1)])
    leader.placed(ask("r", attempt=1))
    assert leader.placed(ask("r", attempt=2)) == node(1)


def test_two_gateways_may_use_the_same_request_id() -> None:
    leader = Leader([full(1)])
    leader.ask(ask("r"), gateway=node(7))
    leader.ask(ask("r"), gateway=node(8))
    assert leader.scheduler.queue_lengths() == {MODEL: 2}


def test_a_report_twice_is_counted_once() -> None:
    leader = Leader([machine(1)])
    leader.placed(ask("r", user="u"))
    for _ in range(3):
        leader.report("r", node_id=node(1), output_tokens=10)
    assert leader.scheduler._queues.counters(MODEL).of("u") == pytest.approx(100 + 2 * 10)


# --- leadership -----------------------------------------------------------------------------------------------


def test_a_new_leader_listens_before_it_assigns() -> None:
    machines = [machine(1), machine(2), machine(3)]
    scheduler = Scheduler(node(1))
    scheduler.step(0.0, events.ViewChanged(view(*machines)))
    scheduler.step(10.0, events.BecameLeader(Ballot(2, node(1))))
    (reply,) = scheduler.step(10.0, events.AskReceived(GATEWAY, ask("r")))
    assert reply.answer.outcome is Outcome.QUEUED
    assert scheduler.wake_at_s == pytest.approx(10.1)
    assert scheduler.step(10.29, events.Tick()) == []
    assert scheduler.wake_at_s == pytest.approx(10.3)
    (reply,) = scheduler.step(10.3, events.Tick())
    assert reply.answer.outcome is Outcome.ASSIGNED
    assert reply.answer.decision is not None
    assert reply.answer.decision.ballot == Ballot(2, node(1))


def test_it_begins_at_once_when_all_have_reported() -> None:
    machines = [machine(1), machine(2), machine(3)]
    scheduler = Scheduler(node(1))
    scheduler.step(0.0, events.ViewChanged(view(*machines)))
    scheduler.step(10.0, events.BecameLeader(Ballot(2, node(1))))
    scheduler.step(10.0, events.AskReceived(GATEWAY, ask("r")))
    second = updated(machines[1], model_load())
    assert scheduler.step(10.05, events.ViewChanged(view(machines[0], second, machines[2]))) == []
    lost = replace(machines[2], reachable=False)
    (reply,) = scheduler.step(10.1, events.ViewChanged(view(machines[0], second, lost)))
    assert reply.answer.outcome is Outcome.ASSIGNED


def test_alone_it_need_not_listen() -> None:
    scheduler = Scheduler(node(1))
    scheduler.step(0.0, events.ViewChanged(view(machine(1))))
    scheduler.step(10.0, events.BecameLeader(Ballot(2, node(1))))
    (reply,) = scheduler.step(10.0, events.AskReceived(GATEWAY, ask("r")))
    assert reply.answer.outcome is Outcome.ASSIGNED


def test_asks_sent_again_to_a_new_leader_keep_their_place() -> None:
    machines = [full(1), machine(2, running_limit=1)]
    scheduler = Scheduler(node(1))
    scheduler.step(0.0, events.ViewChanged(view(*machines)))
    scheduler.step(10.0, events.BecameLeader(Ballot(2, node(1))))
    for name, waited_s in (("new", 0.1), ("oldest", 9.0), ("old", 4.0)):
        scheduler.step(10.1, events.AskReceived(GATEWAY, ask(name, waited_s=waited_s)))
    order = [r.answer.request_id for r in scheduler.step(10.3, events.Tick())]
    while len(order) < 3:
        replies = scheduler.step(10.4, events.Reported(GATEWAY, AttemptReport(order[-1], 1)))
        order += [r.answer.request_id for r in replies]
    assert order == ["oldest", "old", "new"]


def test_who_lost_leadership_forgets_the_queue_and_sends_nothing() -> None:
    leader = Leader([full(1)])
    leader.ask(ask("r"))
    assert leader._step(events.LostLeadership()) == []
    assert leader.scheduler.queue_lengths() == {}
    assert leader.see(machine(1)) == []
    assert leader.ask(ask("r")) == []
    assert not leader.scheduler.leading


def test_who_leads_again_does_not_repeat_what_it_said_before() -> None:
    """Gateways have gone on without it: an old answer would send a request where it is not any more."""
    leader = Leader([machine(1), machine(2, decode_tokens_per_s=10.0)])
    assert leader.placed(ask("r", attempt=3)) == node(1)
    leader._step(events.LostLeadership())
    leader._step(events.BecameLeader(Ballot(9, node(1))))
    leader.tick(5.0)
    leader.see(gone=[node(1)])
    assert leader.placed(ask("r", attempt=3)) == node(2)
    leader._step(events.LostLeadership())
    leader._step(events.BecameLeader(Ballot(19, node(1))))
    leader.tick(5.0)
    assert leader.placed(ask("r", attempt=1)) == node(2), "nor what it heard"


def test_a_higher_ballot_of_the_same_leader_keeps_the_queue() -> None:
    leader = Leader([full(1)])
    leader.ask(ask("r"))
    leader._step(events.BecameLeader(Ballot(9, node(1))))
    (answer,) = leader.see(machine(1))
    assert answer.decision is not None
    assert answer.decision.ballot == Ballot(9, node(1))


def test_a_lost_gateway_is_forgotten() -> None:
    leader = Leader([full(1)])
    leader.ask(ask("r"))
    leader._step(events.GatewayLost(GATEWAY))
    assert leader.see(machine(1)) == []


# --- bounds ---------------------------------------------------------------------------------------------------


def test_records_and_memories_are_bounded() -> None:
    settings = SchedulerSettings(known_requests_max=10, candidates_recorded_max=8, reservations_max=20)
    leader = Leader(
        [machine(n, running_limit=1000) for n in range(1, 30)] + [member(node(n)) for n in range(30, 60)], settings
    )
    for i in range(50):
        (answer,) = leader.ask(ask(f"r{i}"))
    assert answer.decision is not None
    assert len(answer.decision.candidates) == 8
    assert answer.decision.candidates[-1].rejected_because == "does not offer the model"
    assert answer.decision.candidates[0].rejected_because == ""
    assert len(leader.scheduler._known) == 10
    assert len(leader.scheduler._pool.inflight) == 20


def test_hostile_numbers_do_not_stop_the_leader() -> None:
    nan, huge = float("nan"), 2**70
    liar = machine(
        2, prefill_tokens_per_s=nan, decode_tokens_per_s=float("inf"), queued_tokens=huge, running_requests=-huge
    )
    leader = Leader([machine(1), liar])
    requests: tuple[dict[str, object], ...] = (
        {"prompt_tokens": huge},
        {"prompt_tokens": -5},
        {"waited_s": nan},
        {"deadline_s": nan},
        {"priority": -9},
        {"max_output_tokens": huge},
        {"prefix_hashes": tuple(range(10_000))},
        {"excluded": {node(1): "x" * 100_000}},
    )
    for i, fields in enumerate(requests):
        (answer,) = leader.ask(ask(f"r{i}", **fields))
        assert answer.outcome is (Outcome.NO_CANDIDATE if i == 0 else Outcome.ASSIGNED) or i > 4
        assert answer.decision is not None
        assert all(math.isfinite(v.last_token_s or 0.0) for v in answer.decision.candidates)
        assert all(len(v.rejected_because) < 200 for v in answer.decision.candidates)
    leader.report("r1", output_tokens=-huge)
    leader.report("r2", output_tokens=huge)


def test_an_engine_that_lost_what_it_was_believed_to_have_is_not_believed_to_have_older_things() -> None:
    leader = Leader([machine(1, running_limit=64)])
    conversations = {name: tuple(range(start, start + 8)) for start, name in ((1, "old"), (100, "mid"), (200, "new"))}

    def prefill_s(name: str, cached: int) -> float:
        """Of a turn of that conversation, as predicted; the engine then says what it had."""
        request = ask(f"{name}{leader.now_s}", prompt_tokens=1200, prefix_hashes=conversations[name])
        (answer,) = leader.ask(request)
        leader.report(request.request_id, output_tokens=10, prompt_tokens=1200, cached_prompt_tokens=cached)
        leader.tick(1.0)
        assert answer.decision is not None
        return answer.decision.candidates[0].terms_s["prefill"]

    whole = prefill_s("old", 0)
    assert prefill_s("mid", 0) == prefill_s("new", 0) == whole
    assert prefill_s("new", 1000) < whole / 4
    assert prefill_s("mid", 0) < whole / 4, "believed to be there, and it was gone"
    assert prefill_s("old", 0) == whole, "used before it: gone too"
    assert prefill_s("mid", 1000) < whole / 4, "computed again since"
    assert prefill_s("new", 1000) < whole / 4, "used after it: still there"
    assert not leader.scheduler._pool._hopes
