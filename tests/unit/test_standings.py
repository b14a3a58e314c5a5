"""Machines as they stand, kept from report to report, against the same worked out anew."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.scheduling import ask, member, model_load, node, updated, view

from covey_mesh.core.facts import EngineState, Member, ModelLoad
from covey_mesh.core.names import NodeId
from covey_scheduler.core.account import PoolAccount
from covey_scheduler.core.policies import PREDICTED
from covey_scheduler.core.policy import Ranking
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing

SETTINGS = SchedulerSettings()

loads = st.one_of(
    st.none(),
    st.builds(
        lambda running, limit, speed, context, state: model_load(
            running_requests=running,
            running_limit=limit,
            prefill_tokens_per_s=speed,
            max_context_tokens=context,
            state=state,
        ),
        st.integers(0, 4),
        st.sampled_from([0, 4, 8]),
        st.sampled_from([0.0, 100.0, 200.0, 300.0]),
        st.sampled_from([2048, 2048, 2048, 4096]),
        st.sampled_from([EngineState.READY, EngineState.READY, EngineState.READY, EngineState.FAILED]),
    ),
)
changes = st.lists(
    st.lists(st.tuples(st.integers(1, 4), st.one_of(st.just("leave"), loads)), min_size=1, max_size=3), max_size=10
)


def by_machine(ranking: Ranking) -> dict[NodeId, tuple[Standing, float]]:
    rows = zip(ranking.machines, ranking.costs, strict=True)
    return {row.candidate.machine.node_id: (row, cost) for row, cost in rows}


@settings(max_examples=150, deadline=None)
@given(changes)
def test_what_is_kept_is_what_would_be_made_anew(steps: list[list[tuple[int, str | ModelLoad | None]]]) -> None:
    kept, members = PoolAccount(node(1), SETTINGS, PREDICTED), dict[NodeId, Member]()
    for version, reports in enumerate(steps):
        for number, change in reports:
            node_id = node(number)
            if change == "leave":
                members.pop(node_id, None)
                continue
            fresh = updated(members.get(node_id, member(node_id)), model_load())
            given_loads = (change,) if isinstance(change, ModelLoad) else ()
            members[node_id] = replace(fresh, load=replace(fresh.load, models=given_loads))
        now = view(*members.values(), version=version)
        kept.view_changed(now, float(version))
        anew = PoolAccount(node(1), SETTINGS, PREDICTED)
        anew.view_changed(now, float(version))
        for tokens in (10, 3000):
            asked = replace(ask(), prompt_tokens=tokens)
            ours, other = (each.ranking(asked, float(version)) for each in (kept, anew))
            # A machine that left and came back between two looks keeps its old place: the order says nothing.
            assert by_machine(ours) == by_machine(other)
            assert sorted(map(repr, ours.rejected)) == sorted(map(repr, other.rejected))
