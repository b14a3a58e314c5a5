"""When machines that load a model now should be ready: a machine about to be ready is worth waiting for.

By the median of the machine's own earlier loads, counted from when its load was first noticed here. One that is late
is expected to take as long again as it has taken already: the longer, the less it is waited for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

from covey_mesh.core.facts import EngineState
from covey_mesh.core.names import NodeId
from covey_scheduler.core.machine import Machine

LOADS_MAX = 4096
"""Machines and models remembered; beyond, the one noticed longest ago is forgotten."""

READY = 0.0
"""The time of a machine that loads nothing, or of whose earlier loads nothing is known."""


class _Load(NamedTuple):
    """One load. `expected_s`: its length by earlier ones; `ready_at_s`: as told last."""

    generation: tuple[int, int]
    noticed_s: float
    expected_s: float
    ready_at_s: float


class Loads:
    """All loads that go on now, by model and machine."""

    def __init__(self) -> None:
        self.all: OrderedDict[tuple[str, NodeId], _Load] = OrderedDict()
        """Changed by this class alone."""

    def ready_at_s(self, model: str, machine: Machine, now_s: float) -> float:
        """When the machine should be ready for the model; READY if it is, or if nobody can say."""
        key, load = (model, machine.node_id), machine.load
        expected_s = 0.0 if load is None or load.state is not EngineState.STARTING else load.speeds.load_s
        if expected_s <= 0:
            self.all.pop(key, None)
            return READY
        known = self.all.get(key)
        if known is None or known.generation != machine.generation:
            known = _Load(machine.generation, now_s, expected_s, now_s + expected_s)
        elif known.ready_at_s <= now_s:
            known = known._replace(ready_at_s=now_s + (now_s - known.noticed_s))
        self.all[key] = known
        if len(self.all) > LOADS_MAX:
            self.all.popitem(last=False)
        return known.ready_at_s

    def late(self, model: str, now_s: float) -> set[NodeId]:
        """Machines that should have been ready by now: to be asked about again."""
        return {node_id for (each, node_id), load in self.all.items() if each == model and load.ready_at_s <= now_s}

    def keep_only(self, node_ids: Collection[NodeId]) -> None:
        """Forgets machines that are members no more."""
        for key in [key for key in self.all if key[1] not in node_ids]:
            del self.all[key]

    def __len__(self) -> int:
        return len(self.all)
