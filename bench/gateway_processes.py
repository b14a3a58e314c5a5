"""One agent with 1, 2, 4, ... gateway processes, side by side: requests a second, tokens a second, CPU of each process.

    python bench/gateway_processes.py [--processes 1,2,4] [--seconds 4] [--rounds 3] [--connections 64]

Each agent serves the bench's stand-in engine over a Unix socket; one is under load at a time, in turns. The load comes
from a C program on the same machine: with few cores it takes its share of them, and requests a second say less than
the CPU of the busiest process, which is what bounds an agent where cores are plenty. Prints a table, then `ratio NAME
VALUE` lines against one process.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.datapath import instruments, report
from bench.datapath.instruments import STAND_IN, Load, Measured
from bench.datapath.pools import Pool, Shape
from bench.datapath.processes import CACHE, cpu_s, trees

WARM_UP_S = 1.0


@dataclass
class Run:
    """One load on one agent: what came back, and CPU seconds of each of its processes, the agent first."""

    measured: Measured
    cpu_s: list[float]


@dataclass
class Target:
    """An agent and its runs, by load."""

    processes: int
    pool: Pool
    runs: dict[str, list[Run]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", default="1,2,4", help="numbers of processes (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default %(default)s)")
    parser.add_argument("--connections", type=int, default=64, help="clients at once (default %(default)s)")
    arguments = parser.parse_args()
    numbers = [int(word) for word in arguments.processes.split(",")]
    loads = {
        "requests": Load(connections=arguments.connections, stream=False, tokens=1, interval_us=0),
        "streams": Load(connections=arguments.connections, stream=True, tokens=128, interval_us=1_000),
    }
    instruments.build()
    with ExitStack() as stack:
        targets = [_started(stack, number) for number in numbers]
        for turn in range(arguments.rounds):
            for name, load in loads.items():
                for target in targets if turn % 2 == 0 else reversed(targets):
                    _say(f"round {turn + 1} of {arguments.rounds}, {name}: {target.processes} processes")
                    target.runs.setdefault(name, []).append(_run(target, load, arguments.seconds, turn))
    _say("")
    print(f"\n{report.machine()}; {arguments.connections} clients, {arguments.rounds} rounds, medians\n")
    print("\n".join([*table(targets), "", *ratios(targets)]), flush=True)


def _say(text: str) -> None:
    print(f"\r{text:90}", end="", file=sys.stderr, flush=True)


def _started(stack: ExitStack, processes: int) -> Target:
    pool = Pool(Shape(f"covey with {processes}", machines=1, processes=processes))
    stack.callback(pool.stop)
    _say(f"starting an agent with {processes} processes")
    pool.start(CACHE / "logs")
    return Target(processes, pool)


def _run(target: Target, load: Load, seconds: float, turn: int) -> Run:
    pids = [pid for pid in trees(target.pool.pids, without=STAND_IN) if _is_gateway(pid, target.pool.pids)]
    readings: list[list[float]] = []

    def read() -> float:
        readings.append([cpu_s([pid]) for pid in pids])
        return sum(readings[-1])

    found = instruments.run_load(target.pool.port, load, seconds, WARM_UP_S, turn + 1, read)
    if found.failed or not found.completed:
        raise SystemExit(f"{found.failed} of {found.completed + found.failed} requests failed: {found.complaint}")
    return Run(found, [after - before for before, after in zip(*readings, strict=True)])


def _is_gateway(pid: int, agents: Sequence[int]) -> bool:
    return pid in agents or b"covey.gateway_process" in Path(f"/proc/{pid}/cmdline").read_bytes()


def table(targets: Sequence[Target]) -> list[str]:
    """One line a load and a number of processes."""
    lines = [
        f"{'load':10}{'processes':>10}{'requests/s':>12}{'tokens/s':>12}{'CPU us/request':>16}"
        f"{'agent us':>11}{'busiest us':>12}{'first p50 ms':>14}{'first p99 ms':>14}"
    ]
    for name in targets[0].runs:
        for target in targets:
            runs = target.runs[name]
            lines.append(
                f"{name:10}{target.processes:>10}{_median(runs, requests_per_s):>12.0f}"
                f"{_median(runs, lambda r: r.measured.tokens / r.measured.seconds):>12.0f}"
                f"{_median(runs, lambda r: _each_us(r, sum(r.cpu_s))):>16.0f}"
                f"{_median(runs, lambda r: _each_us(r, r.cpu_s[0])):>11.0f}{_median(runs, busiest_us):>12.0f}"
                f"{_median(runs, lambda r: r.measured.first_p50_us / 1000):>14.2f}"
                f"{_median(runs, lambda r: r.measured.first_p99_us / 1000):>14.2f}"
            )
    return lines


def ratios(targets: Sequence[Target]) -> list[str]:
    """Against one process: what was answered, all CPU, and the room that the busiest process leaves."""
    one = next((target for target in targets if target.processes == 1), targets[0])
    lines = []
    for name in one.runs:
        for target in targets:
            if target is not one:
                of, base = target.runs[name], one.runs[name]
                label = f"{name}_{target.processes}_processes"
                faster = _median(of, requests_per_s) / _median(base, requests_per_s)
                dearer = _median(of, lambda r: _each_us(r, sum(r.cpu_s))) / _median(
                    base, lambda r: _each_us(r, sum(r.cpu_s))
                )
                room = _median(base, busiest_us) / _median(of, busiest_us)
                lines += [
                    f"ratio {label}_throughput {faster:.2f}",
                    f"ratio {label}_cpu {dearer:.2f}",
                    f"ratio {label}_bound_by_busiest {room:.2f}",
                ]
    return lines


def requests_per_s(run: Run) -> float:
    return run.measured.completed / run.measured.seconds


def busiest_us(run: Run) -> float:
    """CPU of the busiest process for each request that the agent answered."""
    return _each_us(run, max(run.cpu_s))


def _each_us(run: Run, seconds: float) -> float:
    return seconds * 1e6 / run.measured.completed


def _median(runs: Sequence[Run], of: object) -> float:
    assert callable(of)
    return statistics.median(float(of(run)) for run in runs)


if __name__ == "__main__":
    main()
