"""Grants: when an assignment lets its gateway start more without asking, how much, and what is made of its word."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.scheduling import GATEWAY, MODEL, Leader, member, model_load, node, updated, view
from tests.support.scheduling import ask as any_ask

from covey_mesh.core.asking import Ask, AttemptReport, Grant, GrantedWork, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import EngineState, Member
from covey_mesh.core.names import NodeId
from covey_mesh.core.speeds import ModelSpeeds
from covey_scheduler.core import events, granted
from covey_scheduler.core.charges import worked_charge
from covey_scheduler.core.clean_ask import clean_work
from covey_scheduler.core.expectation import AnswerLengths
from covey_scheduler.core.granted import Granted
from covey_scheduler.core.grants import LIKE_IT, SHOWN_MOST
from covey_scheduler.core.machine import TOKENS_MAX
from covey_scheduler.core.room import Audience
from covey_scheduler.core.scheduler import Scheduler
from covey_scheduler.core.settings import SchedulerSettings

SETTINGS = SchedulerSettings(grant_prompt_s=0.05)
OTHER_GATEWAY = NodeId("e" * 32)
A_QUARTER = 16
"""Of the machine's places."""


def ask(request_id: str = "r", **fields: Any) -> Ask:
    """Of user "u", 100 prompt tokens."""
    return any_ask(request_id, **({"user": "u"} | fields))


def machine(number: int = 1, load: dict[str, Any] | None = None, **member_fields: Any) -> Member:
    """64 places, 100,000 prompt tokens a second, idle; no KV cache told."""
    fields = {"running_limit": 64, "kv_cache_tokens_total": 0, "prefill_tokens_per_s": 100_000.0} | (load or {})
    return member(node(number), model_load(**fields), **member_fields)


def granted_to(leader: Leader, request: Ask, gateway: NodeId = GATEWAY) -> Grant | None:
    """With the ask's assignment, made at once."""
    (answer,) = leader.ask(request, gateway)
    assert answer.outcome is Outcome.ASSIGNED, answer
    return answer.grant


def work(requests: int, **fields: Any) -> GrantedWork:
    """Of user "u", each request with 100 prompt tokens and an answer of 10."""
    plain = GrantedWork(MODEL, node(1), "u", 1, requests, 100 * requests, 10 * requests)
    return replace(plain, **fields)


def tell(leader: Leader, told: GrantedWork, gateway: NodeId = GATEWAY) -> None:
    assert leader.scheduler.step(leader.now_s, events.Worked(gateway, told)) == []


def counter(leader: Leader, user: str = "u") -> float:
    return leader.scheduler._queues.counters(MODEL).of(user)


def outstanding(leader: Leader) -> tuple[int, int]:
    return leader.scheduler._granted.outstanding(MODEL, leader.now_s)


# --- when, and how much ---------------------------------------------------------------------------------------


def test_an_idle_machine_that_alone_serves_the_model_is_granted_up_to_a_share_of_its_places() -> None:
    grant = granted_to(Leader([machine()], SETTINGS), ask())
    assert grant is not None
    assert grant.requests == A_QUARTER - 1, "one is taken by the ask itself"
    assert grant.valid_s == SETTINGS.grant_valid_s
    assert 4800 <= grant.prompt_tokens <= 4900, "0.05 s of prompts, less the ask's own"


def test_prompts_are_granted_for_requests_like_the_ask() -> None:
    """More of them would only be held back from others."""
    grant = granted_to(Leader([machine()], SETTINGS), ask(prompt_tokens=20))
    assert grant is not None
    assert grant == replace(grant, requests=A_QUARTER - 1, prompt_tokens=LIKE_IT * 20 * (A_QUARTER - 1))


@pytest.mark.parametrize(
    "second",
    [
        member(node(2)),
        machine(2, draining=True),
        machine(2, {"state": EngineState.FAILED}),
    ],
    ids=["has not the model", "draining", "failed"],
)
def test_machines_that_could_not_take_it_do_not_count(second: Member) -> None:
    assert granted_to(Leader([machine(), second], SETTINGS), ask()) is not None


@pytest.mark.parametrize(
    "second",
    [
        machine(2, {"prefill_tokens_per_s": 10.0, "decode_tokens_per_s": 1.0}),
        machine(2, {"prefill_tokens_per_s": 10.0, "decode_tokens_per_s": 1.0, "running_requests": 64}),
        machine(2, reachable=False),
        machine(2, {"state": EngineState.STARTING}),
        machine(2, {"state": EngineState.STARTING, "speeds": ModelSpeeds(load_s=60.0)}),
        machine(2, {"max_context_tokens": 50}),
    ],
    ids=["slower", "full", "unreachable", "starting", "loading, as before", "with a shorter context"],
)
def test_nothing_is_granted_where_another_machine_could_take_a_request(second: Member) -> None:
    assert granted_to(Leader([machine(), second], SETTINGS), ask()) is None


@pytest.mark.parametrize(
    "load",
    [
        {"prefill_tokens_per_s": 0.0},
        {"decode_tokens_per_s": 0.0},
        {"running_limit": 0},
        {"running_limit": 4},
        {"running_requests": 15},
        {"running_requests": 64, "running_limit": 256},
        {"running_requests": 1, "queued_prompt_tokens": 5000},
        {"kv_cache_tokens_total": 1000, "kv_cache_tokens_free": 1000},
        {"kv_cache_tokens_total": 10_000, "kv_cache_tokens_free": 7000, "running_requests": 1},
    ],
    ids=[
        "prefill not measured", "decode not measured", "places unknown", "one place is a quarter",
        "a quarter of its places is taken", "a quarter, more", "prompts wait there", "a small KV cache",
        "a quarter of the KV cache is taken",
    ],
)  # fmt: skip
def test_nothing_is_granted_on_a_machine_that_is_not_nearly_idle(load: dict[str, Any]) -> None:
    assert granted_to(Leader([machine(1, load)], SETTINGS), ask()) is None


@pytest.mark.parametrize(
    "fields",
    [{"deadline_s": 60.0}, {"excluded": {node(7): "not there"}}, {"prompt_tokens": 3000}],
    ids=["a deadline", "something excluded", "a prompt as long as the grant"],
)
def test_some_asks_bring_nothing(fields: dict[str, Any]) -> None:
    assert granted_to(Leader([machine()], SETTINGS), ask(**fields)) is None


def test_batch_work_brings_nothing_while_other_work_presses() -> None:
    leader = Leader([machine()], SETTINGS)
    assert granted_to(leader, ask("alone", user="u", priority=2)) is not None
    leader.now_s += 1.0
    leader.placed(ask("pressing", user="u", priority=1))
    leader.now_s += 1.0
    assert granted_to(leader, ask("beside", user="u", priority=2)) is None


def test_who_waited_brings_nothing() -> None:
    leader = Leader([machine(1, {"max_context_tokens": 0})], SETTINGS)
    leader.placed(ask("long", prompt_tokens=30_000))
    (queued,) = leader.ask(ask("waits"))
    assert (queued.outcome, queued.grant) == (Outcome.QUEUED, None)
    (answer,) = leader.tick(0.3)
    assert (answer.outcome, answer.grant) == (Outcome.ASSIGNED, None)


def test_a_new_leader_grants_nothing_until_it_has_listened() -> None:
    scheduler = Scheduler(node(1))
    silent = member(node(2))
    scheduler.step(0.0, events.ViewChanged(view(machine(), replace(silent, load=replace(silent.load, sequence=0)))))
    scheduler.step(0.0, events.BecameLeader(Ballot(1, node(1))))
    assert scheduler.collecting
    (queued,) = scheduler.step(0.0, events.AskReceived(GATEWAY, ask()))
    assert queued.answer.outcome is Outcome.QUEUED
    (assigned,) = scheduler.step(SETTINGS.collect_s + 0.01, events.Tick())
    assert (assigned.answer.outcome, assigned.answer.grant) == (Outcome.ASSIGNED, None)


def test_a_machine_that_has_just_failed_is_granted_nothing() -> None:
    leader = Leader([machine()], SETTINGS)
    assert granted_to(leader, ask("a")) is not None
    leader.report("a", node_id=node(1), failed=True)
    leader.now_s += 1.0
    assert granted_to(leader, ask("b")) is None


def test_the_setting_turns_grants_off() -> None:
    assert granted_to(Leader([machine()], SchedulerSettings(grant_share=0.0)), ask()) is None


def test_no_more_prompts_wait_than_an_ask_may_find_before_it() -> None:
    usual = SchedulerSettings()
    assert usual.grant_prompt_s <= usual.start_ahead_s
    grant = granted_to(Leader([machine(1, {"running_limit": 4096})]), ask())
    assert grant is not None
    assert grant.prompt_tokens <= usual.start_ahead_s * 100_000 - 100


def test_long_prompts_are_fewer_requests() -> None:
    grant = granted_to(Leader([machine()], SETTINGS), ask(prompt_tokens=1000))
    assert grant is not None
    assert grant.requests == 3, "0.05 s are 5,000 tokens; the ask's own and three more fit well"


def test_the_kv_cache_bounds_it_too() -> None:
    grant = granted_to(
        Leader([machine(1, {"kv_cache_tokens_total": 8000, "kv_cache_tokens_free": 8000})], SETTINGS), ask()
    )
    assert grant is not None
    assert grant.requests == 9, "a quarter are 2,000 tokens: ten requests of 100 and 100, one of them the ask's"


def slow_leader() -> Leader:
    """Of a machine that is believed to compute 10,000 prompt tokens a second: 500 in the time that may be granted."""
    return Leader([machine(load={"prefill_tokens_per_s": 10_000.0, "running_limit": 256})], SETTINGS)


def shown(leader: Leader) -> None:
    """It has just finished 40,000 a second."""
    for _ in range(3):
        leader.now_s += 0.1
        leader.scheduler._granted.finished(leader.now_s, MODEL, 4000)


def test_what_a_machine_has_just_shown_counts_more_than_its_measured_speed() -> None:
    leader = slow_leader()
    before = granted_to(leader, ask("first"))
    assert before is not None
    assert before.prompt_tokens <= 400
    shown(leader)
    after = granted_to(leader, ask("second"))
    assert after is not None
    assert 1000 <= after.prompt_tokens <= 2000


def test_what_it_has_shown_is_soon_forgotten() -> None:
    leader = slow_leader()
    granted_to(leader, ask("first"))
    shown(leader)
    leader.now_s += granted.PACE_KEPT_S + 0.1
    grant = granted_to(leader, ask("second"))
    assert grant is not None
    assert grant.prompt_tokens <= 400, "it may have got slower since"


def test_what_it_has_shown_counts_within_bounds() -> None:
    leader = slow_leader()
    granted_to(leader, ask("first"))
    for _ in range(3):
        leader.now_s += 0.1
        leader.scheduler._granted.finished(leader.now_s, MODEL, 10**9)
    grant = granted_to(leader, ask("second"))
    assert grant is not None
    assert grant.prompt_tokens <= 500 * SHOWN_MOST


def test_beside_other_users_what_it_has_shown_does_not_count() -> None:
    leader = slow_leader()
    granted_to(leader, ask("first"))
    granted_to(leader, ask("of another", user="v"))
    shown(leader)
    assert granted_to(leader, ask("second")) is None, "two asks' prompts are more than others may find before theirs"


def test_beside_other_users_fewer_prompts_are_granted() -> None:
    """As much as a user's work may be before another's on that machine anyway."""
    leader = Leader([machine()], SETTINGS)
    leader.placed(ask("before", user="light"))
    leader.report("before", node_id=node(1), output_tokens=1)
    leader.now_s += 1.0
    grant = granted_to(leader, ask("more", user="heavy", prompt_tokens=500))
    assert grant is not None
    within = SETTINGS.crowd_ahead_s * 100_000 - 500
    assert grant.prompt_tokens <= within
    assert grant.requests <= within // 500


# --- what is outstanding --------------------------------------------------------------------------------------


def test_what_was_granted_is_granted_once() -> None:
    leader = Leader([machine()], SETTINGS)
    first = granted_to(leader, ask("a"))
    assert first is not None
    assert granted_to(leader, ask("b")) is None
    assert granted_to(leader, ask("c"), OTHER_GATEWAY) is None
    assert outstanding(leader) == (first.requests, first.prompt_tokens)


def test_what_is_told_as_over_may_be_granted_again() -> None:
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a"))
    tell(leader, work(6))
    again = granted_to(leader, ask("b"))
    assert again is not None
    assert again.requests == 5, "six places are free again, and one of them is the ask's"


def test_what_one_gateway_tells_frees_nothing_of_another() -> None:
    leader = Leader([machine(1, {"running_limit": 400})], SETTINGS)
    first = granted_to(leader, ask("a", prompt_tokens=300))
    tell(leader, work(8))
    second = granted_to(leader, ask("b", prompt_tokens=300), OTHER_GATEWAY)
    assert first is not None
    assert second is not None
    assert outstanding(leader)[0] == first.requests - 8 + second.requests
    tell(leader, work(50), OTHER_GATEWAY)
    assert outstanding(leader)[0] == first.requests - 8
    tell(leader, work(50))
    assert outstanding(leader) == (0, 0)


def test_a_second_machine_ends_the_granting_and_its_going_begins_it_again() -> None:
    leader = Leader([machine()], SETTINGS)
    assert granted_to(leader, ask("a")) is not None
    for name, members in (("b", [machine(2, reachable=False)]), ("c", [machine(2)])):
        leader.now_s += 1.0
        leader.see(*members)
        assert granted_to(leader, ask(name)) is None
    leader.now_s += 1.0
    leader.see(gone=[node(2)])
    assert granted_to(leader, ask("d")) is not None


def test_a_grant_counts_no_longer_once_reports_must_show_what_began() -> None:
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a"))
    leader.report("a", node_id=node(1), output_tokens=1)
    leader.now_s += SETTINGS.grant_valid_s + 0.01
    assert granted_to(leader, ask("b")) is None, "what began at the last moment is in no report yet"
    leader.report("b", node_id=node(1), output_tokens=1)
    leader.now_s += SETTINGS.settle_s
    assert granted_to(leader, ask("c")) is not None


def test_requests_that_a_report_shows_are_not_granted_again() -> None:
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a"))
    leader.report("a", node_id=node(1), output_tokens=1)
    leader.see(updated(machine(), model_load(running_limit=64, prefill_tokens_per_s=1e5, running_requests=12)))
    leader.now_s += 1.0
    grant = granted_to(leader, ask("b"))
    assert grant is not None
    assert grant.requests == A_QUARTER - 12 - 1


def test_a_duplicate_of_an_ask_is_granted_nothing_more() -> None:
    leader = Leader([machine()], SETTINGS)
    (first,) = leader.ask(ask())
    (again,) = leader.ask(ask())
    assert first.grant is not None
    assert again == replace(first, grant=None)


def test_grants_of_a_gateway_that_is_gone_count_no_more() -> None:
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a"))
    leader.scheduler.step(leader.now_s, events.GatewayLost(GATEWAY))
    assert outstanding(leader) == (0, 0)
    before = counter(leader)
    tell(leader, work(3))
    assert counter(leader) == before, "nor is it believed any more"


def test_another_leader_knows_of_no_grants() -> None:
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a"))
    leader.scheduler.step(leader.now_s, events.LostLeadership())
    leader.scheduler.step(leader.now_s, events.BecameLeader(Ballot(2, node(1))))
    assert outstanding(leader) == (0, 0)
    tell(leader, work(3))
    assert counter(leader) == 0.0


def test_bounds_of_the_account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granted, "GRANTS_MAX", 3)
    monkeypatch.setattr(granted, "UNTOLD_MAX", 2)
    leader = Leader([machine(1, {"running_limit": 4096})], SchedulerSettings(grant_prompt_s=0.5))
    asked = [granted_to(leader, ask(f"r{i}", prompt_tokens=1000 + i), NodeId(f"{i:032x}")) for i in range(6)]
    account = leader.scheduler._granted
    assert len(account._untold) <= 2
    assert sum(grant is not None for grant in asked) <= 3


# --- what is told ---------------------------------------------------------------------------------------------


def test_what_is_told_is_charged_to_its_user_once() -> None:
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a", user="first"))
    before = counter(leader)
    tell(leader, work(6, cached_prompt_tokens=100))
    expected = 500 + SETTINGS.cached_token_weight * 100 + SETTINGS.output_token_weight * 60
    assert counter(leader) - before == pytest.approx(expected)
    assert leader.scheduler._pool.audience.others(MODEL, "first", leader.now_s)


def test_a_gateway_is_believed_for_what_it_was_granted() -> None:
    leader = Leader([machine()], SETTINGS)
    grant = granted_to(leader, ask("a"))
    assert grant is not None
    before = counter(leader)
    tell(leader, work(1000))
    charged = counter(leader)
    assert 0 < charged - before <= worked_charge(work(grant.requests), SETTINGS)
    tell(leader, work(1000))
    tell(leader, work(5), OTHER_GATEWAY)
    tell(leader, work(5, model="never heard of"))
    assert counter(leader) == charged
    assert "never heard of" not in leader.scheduler._queues._counters


@pytest.mark.parametrize(
    "told",
    [
        work(0),
        work(-3),
        work(1, prompt_tokens=-1, output_tokens=-1, failed=-1, cached_prompt_tokens=-1, priority=-7),
        GrantedWork(MODEL, node(1), "u", 2**32 - 1, 2**32 - 1, 2**64 - 1, 2**64 - 1, 2**32 - 1, 2**64 - 1),
        work(1, user="x" * 4096, priority=2**32 - 1),
        work(1, node_id=node(99), failed=1),
    ],
    ids=["nothing", "less than nothing", "negative", "huge", "a long name", "an unknown machine"],
)  # fmt: skip
def test_odd_sums_do_bounded_harm(told: GrantedWork) -> None:
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a"))
    before = counter(leader)
    tell(leader, told)
    assert before <= counter(leader) <= before + 3 * TOKENS_MAX
    assert len(leader.scheduler._pool.failures) <= 1
    assert leader.scheduler._pool.failures.count(node(99), MODEL, leader.now_s) == 0
    assert all(len(user) <= 128 for user in leader.scheduler._queues.counters(MODEL)._counters)
    leader.placed(ask("afterwards"))


def test_clean_sums_keep_their_means() -> None:
    told = work(10, cached_prompt_tokens=500, failed=2)
    assert clean_work(told, 10) == told
    half = clean_work(told, 5)
    assert (half.requests, half.prompt_tokens, half.output_tokens) == (5, 500, 50)
    assert (half.cached_prompt_tokens, half.failed) == (250, 2)


def test_several_answers_at_once_count_as_one_after_the_other() -> None:
    one_by_one, at_once = AnswerLengths(SETTINGS), AnswerLengths(SETTINGS)
    for lengths in (one_by_one, at_once):
        lengths.ended(MODEL, "u", 400)
    for _ in range(7):
        one_by_one.ended(MODEL, "u", 20)
    at_once.ended(MODEL, "u", 20.0, 7)
    for key, sums in one_by_one._sums.items():
        assert at_once._sums[key] == pytest.approx(sums)


def test_answers_and_failures_are_learned_from_what_is_told() -> None:
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a"))
    tell(leader, work(10))
    (answer,) = leader.ask(ask("b", user="u", max_output_tokens=0))
    record = answer.decision
    assert record is not None
    assert record.candidates[0].terms_s["decode"] < 1.0, "answers of 10 tokens at 100 a second, no more of 256"
    tell(leader, work(3, failed=2))
    assert leader.scheduler._pool.failures.count(node(1), MODEL, leader.now_s) == 2
    tell(leader, work(1))
    assert leader.scheduler._pool.failures.count(node(1), MODEL, leader.now_s) == 0


def test_who_was_told_of_stands_where_an_ask_would_have_put_it() -> None:
    """Not behind the others for having been away: its counter begins where theirs are."""
    leader = Leader([machine()], SETTINGS)
    granted_to(leader, ask("a", user="old", prompt_tokens=2000))
    leader.report("a", node_id=node(1), output_tokens=1000, prompt_tokens=2000)
    floor = counter(leader, "nobody yet")
    assert floor > 0
    leader.now_s += 1.0
    granted_to(leader, ask("b", user="old"))
    tell(leader, work(1, user="new"))
    assert counter(leader, "new") >= floor + worked_charge(work(1), SETTINGS)


# --- what goes on for long ------------------------------------------------------------------------------------


def test_a_granted_request_that_goes_on_is_known_by_its_own_ask_and_settled_by_its_report() -> None:
    leader = Leader([machine()], SETTINGS)
    first = granted_to(leader, ask("a", user="u"))
    assert first is not None
    leader.report("a", node_id=node(1), output_tokens=10, prompt_tokens=100)
    before = counter(leader)
    assert leader.ask(ask("long", user="u", running_on=node(1))) == []
    assert leader.ask(ask("long", user="u", running_on=node(1))) == [], "said twice, it changes nothing"
    assert outstanding(leader)[0] == first.requests - 1, "its place is its own now"
    known = leader.scheduler._known.get((GATEWAY, "long"))
    assert known is not None
    assert known.charged.prompt == 100
    assert counter(leader) - before == pytest.approx(known.charged.total), "its prompt is charged at once"
    assert leader.scheduler._pool.holdings.of(MODEL, "u") == 1
    leader.report("long", node_id=node(1), output_tokens=300, prompt_tokens=120)
    assert leader.scheduler._pool.holdings.of(MODEL, "u") == 0
    assert counter(leader) - before == pytest.approx(120 + SETTINGS.output_token_weight * 300)
    leader.report("long", node_id=node(1), output_tokens=300, prompt_tokens=120)
    assert counter(leader) - before == pytest.approx(120 + SETTINGS.output_token_weight * 300)


def test_what_ran_under_an_earlier_leader_is_charged_for_its_answer_alone() -> None:
    leader = Leader([machine()], SETTINGS)
    leader.ask(ask("long", user="u", running_on=node(1)))
    leader.report("long", node_id=node(1), output_tokens=300, prompt_tokens=120)
    assert counter(leader) == pytest.approx(SETTINGS.output_token_weight * 300)


# --- always ---------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 2), st.integers(1, 2000)),
        st.tuples(st.just("tell"), st.integers(0, 2), st.integers(0, 40)),
        st.tuples(st.just("end"), st.integers(0, 2), st.integers(0, 5)),
        st.tuples(st.just("pass"), st.integers(0, 2), st.integers(1, 300)),
        st.tuples(st.just("lose"), st.integers(0, 2), st.integers(0, 0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS, st.sampled_from([4, 16, 64, 1000]))
def test_granted_and_assigned_together_stay_within_the_share(steps: list[tuple[str, int, int]], places: int) -> None:
    """Whatever gateways ask, tell and leave out: what may run by the leader's word, and what may still be told."""
    leader = Leader([machine(1, {"running_limit": places})], SETTINGS)
    running: dict[str, int] = {}
    grants: list[tuple[float, int, int, int]] = []
    untold = dict.fromkeys(range(3), 0)
    for number, (what, who, amount) in enumerate(steps):
        gateway = NodeId(f"{who + 10:032x}")
        if what == "ask":
            for answer in leader.ask(ask(f"{number}", user=f"user{who}", prompt_tokens=amount), gateway):
                if answer.outcome is Outcome.ASSIGNED:
                    running[answer.request_id] = who
                if answer.grant is not None:
                    assert answer.grant.requests >= 1
                    assert answer.grant.prompt_tokens >= amount
                    grants.append((leader.now_s, who, answer.grant.requests, answer.grant.prompt_tokens))
                    untold[who] += answer.grant.requests
                    out_requests, out_tokens = outstanding(leader)
                    assert out_requests + len(running) <= places * SETTINGS.grant_share
                    assert out_tokens <= SETTINGS.grant_prompt_s * 100_000
        elif what == "tell":
            tell(leader, work(amount), gateway)
            untold[who] -= min(amount, untold[who])
        elif what == "end" and amount < len(running):
            ended = list(running)[amount]
            by = NodeId(f"{running.pop(ended) + 10:032x}")
            leader.scheduler.step(leader.now_s, events.Reported(by, AttemptReport(ended, 1, node(1))))
        elif what == "pass":
            leader.now_s += amount / 1000
        elif what == "lose":
            leader.scheduler.step(leader.now_s, events.GatewayLost(gateway))
            untold[who] = 0
            running = {request_id: by_whom for request_id, by_whom in running.items() if by_whom != who}
        assert leader.scheduler._granted._untold.get((gateway, MODEL), 0) == untold[who]
        still = sum(requests for at_s, _, requests, _ in grants if leader.now_s < at_s + 0.4)
        assert 0 <= outstanding(leader)[0] <= still
        assert outstanding(leader)[1] >= 0


def test_many_grants_and_tellings_leave_sums_exact() -> None:
    account = Granted(SETTINGS, Audience(SETTINGS))
    model = account._model(MODEL)
    for number in range(20):
        model.add(granted._Given(NodeId(f"{number % 3:032x}"), 7, 1000 + number, 1.0 + number))
    for number in range(40):
        model.ended(NodeId(f"{number % 3:032x}"), number % 5)
        assert model.requests == sum(each.requests for each in model.given)
        assert model.tokens == sum(each.tokens for each in model.given)
    model.expire(100.0)
    assert (model.requests, model.tokens, len(model.given)) == (0, 0, 0)
