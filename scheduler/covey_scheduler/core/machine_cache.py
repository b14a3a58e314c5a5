"""The machines of one view for each model, rebuilt only where a report changed: asks are many, changes few."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from covey_mesh.core.facts import Member, ModelLoad, PoolView
from covey_mesh.core.names import NodeId
from covey_scheduler.core.machine import Calibration, Machine, calibration_of, clean_load, machine_of

MODELS_CACHED_MAX = 256


class _Row:
    """One member's last seen state and what was made of it."""

    __slots__ = ("load", "machine", "member")

    def __init__(self, member: Member, load: ModelLoad | None, machine: Machine) -> None:
        self.member, self.load, self.machine = member, load, machine

    def still_true_for(self, member: Member) -> bool:
        old = self.member
        return (
            old.load is member.load
            and old.facts is member.facts
            and old.reachable == member.reachable
            and old.round_trip_s == member.round_trip_s
        )


class _Model:
    def __init__(self) -> None:
        self.rows: dict[NodeId, _Row] = {}
        self.places: dict[NodeId, int] = {}
        self.view: PoolView | None = None
        self.seen = Seen(())
        self.calibration = Calibration()
        self.all_measured = False


class Seen(NamedTuple):
    """Every member as a Machine for one model, in member order, and those made new since `before` (None: any)."""

    machines: Sequence[Machine]
    before: Sequence[Machine] | None = None
    renewed: Mapping[NodeId, Machine] = MappingProxyType({})


class MachineCache:
    """Gives what machine.machines_of gives (a property test compares them), cheaper."""

    def __init__(self, models_max: int = MODELS_CACHED_MAX) -> None:
        self._models: OrderedDict[str, _Model] = OrderedDict()
        self._models_max = models_max

    def machines(self, model: str, view: PoolView) -> Seen:
        """The same object as long as nothing has changed."""
        kept = self._models.get(model)
        if kept is not None and kept.view is view:
            return kept.seen
        if kept is None:
            kept = self._models[model] = _Model()
        self._models.move_to_end(model)
        while len(self._models) > self._models_max:
            self._models.popitem(last=False)
        self._refresh(kept, model, view)
        return kept.seen

    def _refresh(self, kept: _Model, model: str, view: PoolView) -> None:
        changed: dict[NodeId, ModelLoad | None] = {}
        rows = kept.rows
        for node_id, member in view.members.items():
            row = rows.get(node_id)
            if row is not None and row.member is member:
                continue
            if row is not None and row.still_true_for(member):
                row.member = member
                continue
            load = member.load.model(model)
            changed[node_id] = None if load is None else clean_load(load)
        if len(rows) != len(view.members) or not self._can_renew(kept, changed):
            self._rebuild(kept, model, view, changed)
        elif changed:
            self._renew(kept, view, changed)
        kept.view = view

    def _can_renew(self, kept: _Model, changed: Mapping[NodeId, ModelLoad | None]) -> bool:
        """No prior is in use, so that one machine's speeds change no other machine."""
        return kept.all_measured and all(
            node_id in kept.rows and (load is None or _measured(load)) for node_id, load in changed.items()
        )

    def _renew(self, kept: _Model, view: PoolView, changed: Mapping[NodeId, ModelLoad | None]) -> None:
        machines, renewed = list(kept.seen.machines), dict[NodeId, Machine]()
        for node_id, load in changed.items():
            member = view.members[node_id]
            machine = renewed[node_id] = machine_of(member, load, kept.calibration)
            kept.rows[node_id] = _Row(member, load, machine)
            machines[kept.places[node_id]] = machine
        kept.seen = Seen(machines, kept.seen.machines, renewed)

    def _rebuild(self, kept: _Model, model: str, view: PoolView, changed: Mapping[NodeId, ModelLoad | None]) -> None:
        rows = kept.rows
        loads = {node_id: changed[node_id] if node_id in changed else rows[node_id].load for node_id in view.members}
        offered = [(view.members[node_id], load) for node_id, load in loads.items() if load is not None]
        calibration = kept.calibration
        kept.all_measured = all(_measured(load) for _, load in offered)
        if not kept.all_measured:
            calibration = calibration_of(model, offered)
        fresh: dict[NodeId, _Row] = {}
        for node_id, member in view.members.items():
            row = rows.get(node_id)
            stale_prior = row is not None and not row.machine.speeds.measured and calibration != kept.calibration
            if row is None or node_id in changed or stale_prior:
                row = _Row(member, loads[node_id], machine_of(member, loads[node_id], calibration))
            fresh[node_id] = row
        kept.rows, kept.calibration = fresh, calibration
        kept.places = {node_id: place for place, node_id in enumerate(fresh)}
        kept.seen = Seen(tuple(row.machine for row in fresh.values()))


def _measured(load: ModelLoad) -> bool:
    return load.prefill_tokens_per_s > 0 and load.decode_tokens_per_s > 0
