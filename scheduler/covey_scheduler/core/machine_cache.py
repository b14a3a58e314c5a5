"""The machines of one view for each model, rebuilt only where a report changed: asks are many, changes few."""

from __future__ import annotations

from collections import OrderedDict

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
        self.view: PoolView | None = None
        self.machines: tuple[Machine, ...] = ()
        self.calibration = Calibration()


class MachineCache:
    """Gives what machine.machines_of gives (a property test compares them), cheaper."""

    def __init__(self, models_max: int = MODELS_CACHED_MAX) -> None:
        self._models: OrderedDict[str, _Model] = OrderedDict()
        self._models_max = models_max

    def machines(self, model: str, view: PoolView) -> tuple[Machine, ...]:
        """Every member of `view` as a Machine for `model`, in member order."""
        kept = self._models.get(model)
        if kept is not None and kept.view is view:
            return kept.machines
        if kept is None:
            kept = self._models[model] = _Model()
        self._models.move_to_end(model)
        while len(self._models) > self._models_max:
            self._models.popitem(last=False)
        self._refresh(kept, model, view)
        return kept.machines

    def _refresh(self, kept: _Model, model: str, view: PoolView) -> None:
        changed: dict[NodeId, ModelLoad | None] = {}
        for node_id, member in view.members.items():
            row = kept.rows.get(node_id)
            if row is None or not row.still_true_for(member):
                load = member.load.model(model)
                changed[node_id] = None if load is None else clean_load(load)
        if changed or len(kept.rows) != len(view.members):
            self._rebuild(kept, model, view, changed)
        kept.view = view

    def _rebuild(self, kept: _Model, model: str, view: PoolView, changed: dict[NodeId, ModelLoad | None]) -> None:
        rows = kept.rows
        loads = {node_id: changed[node_id] if node_id in changed else rows[node_id].load for node_id in view.members}
        offered = [(view.members[node_id], load) for node_id, load in loads.items() if load is not None]
        calibration = kept.calibration
        if any(not load.prefill_tokens_per_s or not load.decode_tokens_per_s for _, load in offered):
            calibration = calibration_of(model, offered)
        fresh: dict[NodeId, _Row] = {}
        for node_id, member in view.members.items():
            row = rows.get(node_id)
            stale_prior = row is not None and not row.machine.speeds.measured and calibration != kept.calibration
            if row is None or node_id in changed or stale_prior:
                row = _Row(member, loads[node_id], machine_of(member, loads[node_id], calibration))
            fresh[node_id] = row
        kept.rows, kept.calibration = fresh, calibration
        kept.machines = tuple(row.machine for row in fresh.values())
