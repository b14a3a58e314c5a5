"""How the cost of a pool grows: a decision at 2 to 1,000 machines, an agent's CPU at 1 to 1,000 concurrent streams.

    make bench-growth [BENCH_ARGUMENTS="--seconds 3 --plots docs/benchmarks"]

Decisions are the leader's own, as in bench/decision_cost.py. Streams are real: agents as users start them, an engine
that costs nothing behind them and a load generator before them (bench/datapath); the CPU is that of all agents. Each
stream brings 10 tokens a second, the first at once. Prints two tables, and last one line `ratio NAME VALUE` a figure.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from bench import decision_cost
from bench.datapath import instruments
from bench.datapath.instruments import STAND_IN, Load, Measured
from bench.datapath.pools import SHAPES, Pool
from bench.datapath.processes import CACHE, cpu_s, trees
from bench.support.svg import line_chart

MACHINES = (2, 10, 100, 1000)
STREAMS = (1, 10, 100, 1000)
TOKEN_INTERVAL_US = 100_000
TOKENS = 32
WARM_UP_S = 1.5
MEASURED_SHAPES = ("covey here", "covey remote, leader local")


def decisions(asks: int) -> list[decision_cost.Row]:
    rows = [decision_cost.measure(machines, asks) for machines in MACHINES]
    print(f"{'machines':>8}  {'a decision us':>14}  {'after a report us':>18}  {'plain LMetric us':>16}")
    for row in rows:
        print(
            f"{row.machines:>8}  {row.ours_us:>14.0f}  {row.after_report_us:>18.0f}  {row.lmetric_us:>16.0f}",
            flush=True,
        )
    return rows


def streams(shape_name: str, seconds: float) -> dict[int, Measured]:
    """By the number of streams at once."""
    pool, found = Pool(next(shape for shape in SHAPES if shape.name == shape_name)), dict[int, Measured]()
    try:
        pool.start(CACHE / "logs")
        counted = trees(pool.pids, without=STAND_IN)
        for count in STREAMS:
            load = Load(count, stream=True, tokens=TOKENS, interval_us=TOKEN_INTERVAL_US, first_at_once=True)
            # Long enough that every stream ends and begins anew at least once.
            length_s = max(seconds, 1.5 * TOKENS * TOKEN_INTERVAL_US / 1e6)
            found[count] = instruments.run_load(pool.port, load, length_s, WARM_UP_S, count, lambda: cpu_s(counted))
            _say(shape_name, count, found[count])
    finally:
        pool.stop()
    return found


def per_stream(run: Measured, count: int) -> float:
    """Milliseconds of CPU a second and stream."""
    return 1000 * run.cpu_s / run.seconds / count


def _say(shape_name: str, count: int, run: Measured) -> None:
    print(
        f"{shape_name:<28} {count:>7}  {100 * run.cpu_s / run.seconds:>11.1f}  {per_stream(run, count):>18.2f}  "
        f"{run.first_p50_us / 1000:>11.1f}  {run.first_p99_us / 1000:>11.1f}  {run.failed:>6}",
        flush=True,
    )


def plots(folder: Path, rows: Sequence[decision_cost.Row], runs: dict[str, dict[int, Measured]]) -> None:
    times = {
        "covey": [(row.machines, row.ours_us) for row in rows],
        "after a report": [(row.machines, row.after_report_us) for row in rows],
        "plain LMetric": [(row.machines, row.lmetric_us) for row in rows],
    }
    chart = line_chart("One decision, prompt of 4 KB", "machines", "microseconds", times, log_x=True, log_y=True)
    (folder / "growth-decision.svg").write_text(chart)
    costs = {
        name: [(count, per_stream(run, count)) for count, run in measured.items()] for name, measured in runs.items()
    }
    label = "CPU ms a second and stream"
    chart = line_chart("Agents' CPU, streams of 10 tokens a second", "streams at once", label, costs, True, True)
    (folder / "growth-streams.svg").write_text(chart)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.growth", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--asks", type=int, default=1000, help="decisions measured at each size of pool")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each number of streams")
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    chosen = parser.parse_args(arguments)
    print(
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs, {platform.machine()}\n"
    )
    rows = decisions(chosen.asks)
    instruments.build()
    titles = ("streams", "      CPU %", " CPU ms/s a stream", "TTFT p50 ms", "TTFT p99 ms", "failed")
    print(f"\n{'':<28} " + "  ".join(titles))
    runs = {name: streams(name, chosen.seconds) for name in MEASURED_SHAPES}
    if chosen.plots:
        plots(chosen.plots, rows, runs)
    print()
    for row in rows:
        print(f"ratio growth_decision_{row.machines}_vs_plain_lmetric {row.ours_us / row.lmetric_us:.2f}")
    for name, measured in runs.items():
        few, many = (per_stream(measured[count], count) for count in (STREAMS[1], STREAMS[-1]))
        short = name.replace(",", "").replace(" ", "_")
        print(f"ratio growth_cpu_a_stream_{short}_{STREAMS[-1]}_vs_{STREAMS[1]} {many / few:.2f}")


if __name__ == "__main__":
    main()
