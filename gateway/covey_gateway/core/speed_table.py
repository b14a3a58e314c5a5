"""Every machine's speed for every model it offers, measured or expected, as rows for people and programs.

Not here: the measuring (covey_node.core.meter), nor how placement uses it (covey_scheduler).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from covey_mesh.core.facts import Member, ModelLoad, PoolView
from covey_mesh.core.speeds import DecodePoint
from covey_scheduler.core.machine import Machine, clean_load, machines_of
from covey_scheduler.core.settings import SchedulerSettings

PRIOR = "prior"
"""Nothing was measured: from the GPU's data sheet and what other machines measured of the model."""

BATCHES = (1, 8, 32)
SLOWDOWN_UNKNOWN = SchedulerSettings().batch_slowdown
MEASURED_WITHIN = 2.0
"""A step of a batch this many times larger or smaller was seen; otherwise it is worked out."""


@dataclass(frozen=True, slots=True)
class Step:
    """`measured` False: worked out from other batch sizes, or a prior."""

    batch: int
    step_ms: float
    measured: bool


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """`prefill`: (prompt tokens, tokens a second) as measured, shortest first. `slower`: present time against the known
    one, the worse of both kinds. `age_s` by the clocks of two machines; None where nothing was measured."""

    node_id: str
    name: str
    model: str
    engine: str
    reachable: bool
    state: str
    source: str
    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    prefill: tuple[tuple[int, float], ...]
    decode: tuple[DecodePoint, ...]
    steps: tuple[Step, ...]
    load_s: float
    confidence: float
    observations: int
    spread: float
    age_s: float | None
    slower: float


def speed_table(view: PoolView, unix_s: float, model: str = "") -> list[SpeedRow]:
    """By model, then by machine's name. `model`: only this one; empty: all."""
    members = view.members
    offered = {load.model for member in members.values() for load in member.load.models}
    rows: list[SpeedRow] = []
    for name in sorted(offered if not model else offered & {model}):
        machines = machines_of(name, members)
        found = [(members[m.node_id], m) for m in machines if m.load is not None]
        rows += [_row(member, machine, unix_s) for member, machine in sorted(found, key=lambda f: f[0].facts.name)]
    return rows


def plain_rows(rows: list[SpeedRow]) -> list[Mapping[str, Any]]:
    """For JSON."""
    return [asdict(row) | {"decode": [point._asdict() for point in row.decode]} for row in rows]


def steps(load: ModelLoad, expected_tokens_per_s: float = 0.0) -> tuple[Step, ...]:
    """For each of BATCHES, from the nearest batch measured; before the first from what is expected of one stream, if
    anything is."""
    slowdown = clean_load(load).speeds.batch_slowdown or SLOWDOWN_UNKNOWN
    points = [p for p in load.speeds.decode if p.step_s > 0 and p.batch > 0]
    if not points:
        if expected_tokens_per_s <= 0:
            return ()
        alone = DecodePoint(max(1, load.running_requests), 0, 1.0 / expected_tokens_per_s)
        return tuple(Step(batch, 1000 * _step_s(alone, batch, slowdown), False) for batch in BATCHES)
    found: list[Step] = []
    for batch in BATCHES:
        nearest = min(points, key=lambda p: abs(math.log(p.batch / batch)))
        measured = 1 / MEASURED_WITHIN < nearest.batch / batch < MEASURED_WITHIN
        found.append(Step(batch, 1000 * _step_s(nearest, batch, slowdown), measured))
    return tuple(found)


def _step_s(point: DecodePoint, batch: int, slowdown: float) -> float:
    return point.step_s * (1.0 + slowdown * (batch - 1)) / (1.0 + slowdown * (point.batch - 1))


def _row(member: Member, machine: Machine, unix_s: float) -> SpeedRow:
    load = machine.load
    assert load is not None, "only machines that offer the model"
    speeds, embeds = clean_load(load).speeds, load.task.value == "embed"
    return SpeedRow(
        node_id=member.node_id,
        name=member.facts.name,
        model=load.model,
        engine=load.engine,
        reachable=member.reachable,
        state=load.state.value,
        source=speeds.source or PRIOR,
        prefill_tokens_per_s=machine.speeds.prefill_tokens_per_s,
        decode_tokens_per_s=0.0 if embeds else machine.speeds.decode_tokens_per_s,
        prefill=tuple((p.prompt_tokens, p.tokens_per_s) for p in speeds.prefill),
        decode=() if embeds else speeds.decode,
        steps=() if embeds else steps(load, machine.speeds.decode_tokens_per_s),
        load_s=speeds.load_s,
        confidence=speeds.confidence,
        observations=speeds.observations,
        spread=speeds.spread,
        age_s=max(0.0, unix_s - speeds.measured_unix_s) if speeds.measured_unix_s else None,
        slower=max(speeds.prefill_factor, speeds.decode_factor),
    )
