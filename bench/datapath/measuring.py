"""Which loads each target is put under, in interleaved rounds, and the medians over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bench.datapath import instruments
from bench.datapath.instruments import STAND_IN, Load, Measured
from bench.datapath.processes import cpu_s, trees

WARM_UP_S = 0.7
LOADS = {
    "requests": Load(connections=16, stream=False, tokens=1, interval_us=0),
    "first token": Load(connections=1, stream=True, tokens=4, interval_us=0),
    "streams": Load(connections=64, stream=True, tokens=128, interval_us=10_000),
}
"""CPU a request, time to first token of one client, CPU a token of many slow streams."""

SLOW_FACTOR = 5.0
"""A target that completes nothing in the time gets so much more, once."""

SHARES_OF_TIME = {"requests": 1.0, "first token": 0.7, "streams": 2.0}


class Target(Protocol):
    """Anything that answers on a port of loopback; all its processes count."""

    name: str
    port: int

    @property
    def pids(self) -> list[int]: ...

    def start(self, log_folder: Path) -> None: ...

    def stop(self) -> None: ...


@dataclass
class Results:
    """Of one target, by load. `why_not`: not measured, or spoiled."""

    name: str
    runs: dict[str, list[Measured]] = field(default_factory=lambda: {name: [] for name in LOADS})
    why_not: str = ""

    def median(self, load: str, of: Callable[[Measured], float]) -> float | None:
        """None where nothing was measured."""
        runs = self.runs[load]
        return statistics.median(map(of, runs)) if runs and not self.why_not else None


def measure(
    targets: Sequence[Target], loads: Sequence[str], rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Results]:
    """Every target under every load, `rounds` times, in turns: what disturbs the machine disturbs all alike."""
    results = [Results(target.name) for target in targets]
    for number in range(rounds):
        for load_name in loads:
            turn = list(zip(targets, results, strict=True))
            for target, result in turn if number % 2 == 0 else reversed(turn):
                if not result.why_not:
                    say(f"round {number + 1} of {rounds}, {load_name}: {target.name}")
                    measure_one(target, result, load_name, LOADS[load_name], seconds, number)
    return results


def measure_one(target: Target, result: Results, load_name: str, load: Load, seconds: float, seed: int) -> None:
    seconds *= SHARES_OF_TIME[load_name]
    counted = trees(target.pids, without=STAND_IN)
    try:
        run = instruments.run_load(target.port, load, seconds, WARM_UP_S, seed + 1, lambda: cpu_s(counted))
        if not run.completed and not run.failed:
            longer_s = seconds * SLOW_FACTOR
            run = instruments.run_load(target.port, load, longer_s, WARM_UP_S, seed + 1, lambda: cpu_s(counted))
    except (OSError, RuntimeError) as error:
        result.why_not = f"under {load_name}: {error}"
        return
    if run.failed or not run.completed:
        result.why_not = (
            f"under {load_name}: {run.failed} of {run.completed + run.failed} requests failed: {run.complaint}"
        )
    else:
        result.runs[load_name].append(run)
