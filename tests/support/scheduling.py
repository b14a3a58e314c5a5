"""Builders of pools and asks for scheduler tests: everything has a sensible default, a test names what matters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from covey_mesh.core.asking import Answer, Ask, AttemptReport, Outcome
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import EngineState, Gpu, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core import events
from covey_scheduler.core.machine import Candidate, machines_of
from covey_scheduler.core.scheduler import Scheduler
from covey_scheduler.core.settings import SchedulerSettings

MODEL = "tiny"
GATEWAY = NodeId("f" * 32)


def node(number: int) -> NodeId:
    return NodeId(f"{number:032x}")


def model_load(**changes: Any) -> ModelLoad:
    """Ready, idle, 4 places, 1,000 prefill and 100 decode tokens a second."""
    fields: dict[str, Any] = {
        "model": MODEL,
        "state": EngineState.READY,
        "engine": "simulated",
        "task": Task.GENERATE,
        "max_context_tokens": 4096,
        "running_limit": 4,
        "waiting_limit": 4,
        "kv_cache_tokens_total": 65_536,
        "kv_cache_tokens_free": 65_536,
        "prefill_tokens_per_s": 1000.0,
        "decode_tokens_per_s": 100.0,
    }
    return ModelLoad(**(fields | changes))


def member(
    node_id: NodeId,
    *loads: ModelLoad,
    reachable: bool = True,
    draining: bool = False,
    incarnation: int = 1,
    sequence: int = 1,
    round_trip_s: float = 0.0,
    gpu: str = "",
    cpu_count: int = 8,
) -> Member:
    gpus = (Gpu(0, "u", gpu, 1, 1),) if gpu else ()
    facts = NodeFacts(node_id, "host", "0", 1, incarnation, cpu_count=cpu_count)
    load = NodeLoad(node_id, incarnation, sequence, gpus, tuple(loads), draining)
    return Member(facts, load, reachable, round_trip_s)


def view(*members: Member, version: int = 1) -> PoolView:
    return PoolView(node(1), version, node(1), Ballot(1, node(1)), {m.node_id: m for m in members})


def ask(request_id: str = "r", attempt: int = 1, **changes: Any) -> Ask:
    fields: dict[str, Any] = {"model": MODEL, "prompt_tokens": 100, "max_output_tokens": 100}
    return Ask(request_id, attempt, **(fields | changes))


def candidate(load: ModelLoad | None = None, **changes: Any) -> Candidate:
    """One candidate; `changes` are Candidate's fields, or Member's."""
    own = {field.name: changes.pop(field.name) for field in fields(Candidate) if field.name in changes}
    loads = () if load is None else (load,)
    only = member(node(1), *loads, **changes)
    (machine,) = machines_of(MODEL, {only.node_id: only})
    largest = 0 if load is None else machine.load.max_context_tokens  # type: ignore[union-attr]
    return replace(Candidate(machine, largest_context_tokens=largest), **own)


def updated(old: Member, load: ModelLoad) -> Member:
    """The same machine after another report."""
    return replace(old, load=replace(old.load, models=(load,), sequence=old.load.sequence + 1))


class Leader:
    """A scheduler that leads, with short words for its events."""

    def __init__(self, members: Iterable[Member], settings: SchedulerSettings | None = None) -> None:
        self.scheduler = Scheduler(node(1), settings)
        self.members = {m.node_id: m for m in members}
        self.version = 0
        self.now_s = 100.0
        self.scheduler.step(self.now_s, events.BecameLeader(Ballot(1, node(1))))
        self.see()

    def see(self, *changed: Member, gone: Iterable[NodeId] = ()) -> list[Answer]:
        self.members |= {m.node_id: m for m in changed}
        for node_id in gone:
            del self.members[node_id]
        self.version += 1
        return self._step(events.ViewChanged(view(*self.members.values(), version=self.version)))

    def ask(self, request: Ask, gateway: NodeId = GATEWAY) -> list[Answer]:
        return self._step(events.AskReceived(gateway, request))

    def report(self, request_id: str, attempt: int = 1, **fields: Any) -> list[Answer]:
        return self._step(events.Reported(GATEWAY, AttemptReport(request_id, attempt, **fields)))

    def tick(self, seconds: float = 0.0) -> list[Answer]:
        self.now_s += seconds
        return self._step(events.Tick())

    def placed(self, request: Ask) -> NodeId | None:
        """Where the ask was assigned at once."""
        (answer,) = self.ask(request)
        assert answer.outcome is Outcome.ASSIGNED, answer
        return answer.node_id

    def _step(self, event: events.Event) -> list[Answer]:
        return [effect.answer for effect in self.scheduler.step(self.now_s, event)]
