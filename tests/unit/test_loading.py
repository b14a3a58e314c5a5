"""Machines that load a model: waited for where that is sooner, by the time that their earlier loads took."""

from __future__ import annotations

import pytest
from tests.support.scheduling import MODEL, Leader, ask, candidate, member, model_load, node, updated, view

from covey_mesh.core.asking import Outcome
from covey_mesh.core.facts import EngineState, Member, ModelLoad
from covey_mesh.core.speeds import ModelSpeeds
from covey_scheduler.core import loading
from covey_scheduler.core.leaderless import choose_alone
from covey_scheduler.core.loading import READY, Loads
from covey_scheduler.core.settings import SchedulerSettings

SLOW = member(node(1), model_load(prefill_tokens_per_s=50.0, decode_tokens_per_s=5.0))
"""22 s for an ask of 100 prompt tokens and 100 to write; the fast one takes a tenth of a second."""
FAST = {"prefill_tokens_per_s": 10_000.0, "decode_tokens_per_s": 1_000.0}


def loads(load_s: float, **changes: object) -> ModelLoad:
    return model_load(state=EngineState.STARTING, speeds=ModelSpeeds(load_s=load_s), **(FAST | changes))


def loader(load_s: float, number: int = 2) -> Member:
    return member(node(number), loads(load_s))


def leader(*members: Member) -> Leader:
    return Leader(members, SchedulerSettings(wait_patience=2.0, answer_weight=1.0))


def test_a_fast_machine_that_is_soon_ready_is_waited_for() -> None:
    fast = loader(5.0)
    lead = leader(SLOW, fast)
    (answer,) = lead.ask(ask())
    assert answer.outcome is Outcome.QUEUED
    assert answer.decision is not None
    shown = {verdict.node_id: verdict for verdict in answer.decision.candidates}
    assert shown[node(2)].terms_s["loading"] == pytest.approx(5.0)
    assert "loading: ready in about 5 s" in shown[node(2)].rejected_because
    lead.now_s += 4.0
    (answer,) = lead.see(updated(fast, model_load(**FAST)))
    assert (answer.outcome, answer.node_id) == (Outcome.ASSIGNED, node(2))


@pytest.mark.parametrize("load_s", [60.0, 0.0])
def test_one_that_takes_longer_or_is_not_known_is_not(load_s: float) -> None:
    assert leader(SLOW, loader(load_s)).placed(ask()) == node(1)


def test_one_that_is_late_is_waited_for_less_and_less() -> None:
    lead = leader(SLOW, loader(8.0))
    assert lead.ask(ask())[0].outcome is Outcome.QUEUED
    lead.now_s += 9.0
    assert lead.ask(ask("again"))[0].outcome is Outcome.QUEUED, "another 9 s"
    lead.now_s += 16.0
    started = [answer for answer in lead.ask(ask("later")) if answer.outcome is Outcome.ASSIGNED]
    assert [(answer.request_id, answer.node_id) for answer in started] == [("r", node(1))], "another 25 s"


def test_nobody_waits_longer_than_patience_for_a_load_that_never_ends() -> None:
    lead = leader(SLOW, loader(10.0))
    lead.ask(ask())
    answers = [answer for _ in range(60) for answer in lead.tick(1.0)]
    assert [(a.outcome, a.node_id) for a in answers] == [(Outcome.ASSIGNED, node(1))]


def test_where_nobody_else_has_the_model_the_refusal_tells_when_to_come_back() -> None:
    lead = leader(loader(20.0))
    assert lead.ask(ask())[0].outcome is Outcome.QUEUED
    answers = [answer for _ in range(4) for answer in lead.tick(1.0)]
    assert [a.outcome for a in answers] == [Outcome.NO_CANDIDATE]
    assert 15_000 < answers[0].retry_after_ms < 20_000


def test_a_deadline_that_the_load_alone_breaks_is_refused_at_once() -> None:
    (answer,) = leader(loader(20.0)).ask(ask(deadline_s=5.0))
    assert answer.outcome is Outcome.NO_CANDIDATE
    assert answer.retry_after_ms > 10_000


def test_without_a_leader_only_what_is_ready_is_chosen() -> None:
    chosen, decision = choose_alone(ask(), view(SLOW, loader(0.1)), {}, lambda: 0.99)
    assert chosen == node(1)
    assert "engine is starting" in {v.node_id: v.rejected_because for v in decision.candidates}[node(2)]


def test_policies_that_do_not_wait_leave_it_out() -> None:
    lead = Leader([SLOW, loader(0.1)], SchedulerSettings(policy="jsq"))
    assert lead.placed(ask()) == node(1)


def test_a_new_life_of_the_engine_begins_a_new_load() -> None:
    known = Loads()
    first, second = candidate(loads(10.0)).machine, candidate(loads(10.0, restarts=1)).machine
    assert known.ready_at_s(MODEL, first, 100.0) == 110.0
    assert known.ready_at_s(MODEL, first, 104.0) == 110.0
    assert known.ready_at_s(MODEL, second, 104.0) == 114.0
    assert known.late(MODEL, 113.0) == set()
    assert known.late(MODEL, 114.0) == {node(1)}
    assert known.late("another", 114.0) == set()
    assert known.ready_at_s(MODEL, candidate(model_load()).machine, 105.0) == READY
    assert not known


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "LOADS_MAX", 3)
    known = Loads()
    for number in range(10):
        known.ready_at_s(f"model {number}", candidate(loads(10.0)).machine, 0.0)
    assert len(known) == 3
    known.keep_only([])
    assert not known


@pytest.mark.parametrize("load_s", [float("nan"), float("inf"), -1.0, 1e12])
def test_a_machine_that_lies_about_its_loads_is_not_waited_for(load_s: float) -> None:
    assert leader(SLOW, loader(load_s)).placed(ask()) == node(1)
