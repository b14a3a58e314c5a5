"""Routing policies on a public trace, simulated; the leader's own Scheduler decides.

    make bench-routing TRACE=FILE [SPEEDS=1,1,.5,.5,.25] [LOAD=.5] [SEEDS=10]
    python -m bench.routing --help

Prints a table, and last one line `ratio NAME VALUE` a figure. Every request counts, in every run, until its last token.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from bench.routing.paired import interval, paired
from bench.routing.pool import Fault, Pool, Scenario
from bench.routing.trace import BLOCK_TOKENS, Request, prompts_alone_s, read_trace, sample
from bench.support.svg import line_chart
from covey_scheduler.core.policies import POLICIES
from covey_scheduler.core.settings import SchedulerSettings

OURS = "predicted"
TTFT_FIGURES = (("mean_ttft", "first_token_mean"), ("p99_ttft", "first_token_p99"))
CLAIRVOYANT = "clairvoyant"
NO_LIMIT = 1_000_000
"""The simulated clients wait for ever: a queue that turned asks away would look fast."""


@dataclass(frozen=True, slots=True)
class Job:
    trace: Path
    policy: str
    speeds: tuple[float, ...]
    load: float
    seed: int
    requests: int
    report_s: float
    faults: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """Seconds."""

    first_token_mean: float
    first_token_p99: float
    completion_mean: float


@lru_cache(maxsize=2)
def _trace(path: Path) -> list[Request]:
    return read_trace(path)


def run(job: Job) -> Result:
    """One policy, one sample."""
    requests = sample(_trace(job.trace), job.requests, job.load, sum(job.speeds), job.seed)
    clairvoyant = job.policy == CLAIRVOYANT
    scenario = Scenario(
        job.speeds, job.report_s, tuple(parse_fault(each, requests[-1].arrival_s) for each in job.faults), clairvoyant
    )
    settings = SchedulerSettings(
        policy=OURS if clairvoyant else job.policy,
        tokens_per_block=BLOCK_TOKENS,
        queue_length_max=NO_LIMIT,
        queues_length_max=NO_LIMIT,
        queue_wait_s_max=NO_LIMIT,
        **({"settle_s": 0.003} if clairvoyant else {}),
    )
    served = Pool(requests, scenario, settings).run()
    first = [each.first_token_s for each in served]
    assert len(first) == job.requests, "every request counts"
    return Result(
        statistics.fmean(first),
        p99(first),
        statistics.fmean(each.completion_s for each in served),
    )


def p99(values: Sequence[float]) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(0.99 * len(values)) - 1)]


def floor(jobs: Sequence[Job]) -> tuple[float, float]:
    """(mean, p99) time to the first token below which no policy comes, the mean over samples."""
    found = [
        prompts_alone_s(sample(_trace(j.trace), j.requests, j.load, sum(j.speeds), j.seed), max(j.speeds)) for j in jobs
    ]
    return statistics.fmean(map(statistics.fmean, found)), statistics.fmean(map(p99, found))


def nothing_below(lowest: tuple[float, float], results: dict[str, list[Result]]) -> str:
    """The floor in words, beside what of each figure the best peer could lose."""
    peers = [runs for name, runs in results.items() if name not in (OURS, CLAIRVOYANT)]
    text = (
        f"no policy: {lowest[0]:.3f} mean, {lowest[1]:.3f} p99 (each prompt alone on the fastest, every prefix cached)"
    )
    for (_, name), low in zip(TTFT_FIGURES if peers else (), lowest, strict=False):
        best = min(statistics.fmean(getattr(each, name) for each in runs) for runs in peers)
        text += f"; {low / best:.3f} of the best peer's {name}"
    return text


def parse_fault(text: str, duration_s: float) -> Fault:
    """`die:MACHINE:SHARE` or `join:MACHINE:SHARE`, at this share of the time in which requests arrive."""
    kind, machine, share = text.split(":")
    if kind not in ("die", "join"):
        raise ValueError(f"a fault is die:MACHINE:SHARE or join:MACHINE:SHARE, not {text!r}")
    return Fault(float(share) * duration_s, int(machine), joins=kind == "join")


def table(results: dict[str, list[Result]]) -> list[str]:
    """One line a policy: means over seeds, and the halves of their 95% intervals."""
    lines = [f"{'policy':<16} {'mean TTFT s':>16} {'p99 TTFT s':>16} {'mean completion s':>20}"]
    for policy, runs in results.items():
        cells = [
            "{:.3f} +-{:.3f}".format(*interval([getattr(each, name) for each in runs]))
            for name in ("first_token_mean", "first_token_p99", "completion_mean")
        ]
        lines.append(f"{policy:<16} {cells[0]:>16} {cells[1]:>16} {cells[2]:>20}")
    return lines


def ratios(results: dict[str, list[Result]], equal: bool) -> dict[str, float]:
    """Ours against the best peer of each kind, by the means over seeds; each figure against the peer best at it."""

    def mean(policy: str, name: str) -> float:
        return statistics.fmean(getattr(each, name) for each in results[policy])

    found: dict[str, float] = {}
    for kind, names in kinds(results, equal).items():
        for short, name in TTFT_FIGURES:
            if names:
                found[f"{short}_vs_{kind}"] = mean(OURS, name) / min(mean(peer, name) for peer in names)
    if CLAIRVOYANT in results:
        found["mean_completion_vs_clairvoyant"] = mean(OURS, "completion_mean") / mean(CLAIRVOYANT, "completion_mean")
    return found


def kinds(results: dict[str, list[Result]], equal: bool) -> dict[str, list[str]]:
    """Peers by what they know; where all machines are equal, speeds tell nothing."""
    peers = [name for name in results if name not in (OURS, CLAIRVOYANT)]
    blind = [name for name in peers if not POLICIES[name].speed_aware]
    return {"best_peer": peers} if equal else {"best_speed_blind": blind, "best_given_speeds": peers}


def pairs(results: dict[str, list[Result]], equal: bool) -> list[str]:
    """Ours / the best peer's, seed by seed: geometric mean, 95% interval, and the p value of a sign-flip test."""
    lines = []
    for kind, names in kinds(results, equal).items():
        for short, name in TTFT_FIGURES if names else ():
            figures = {policy: [getattr(each, name) for each in results[policy]] for policy in (OURS, *names)}
            best = min(names, key=lambda peer: statistics.fmean(figures[peer]))
            found = paired(figures[OURS], figures[best])
            interval_text = f"{found.low:.3f} to {found.high:.3f}"
            lines.append(f"{short} / {kind} ({best}): {found.ratio:.3f}, 95% {interval_text}, p {found.p:.3f}")
    return lines


def numbers(text: str) -> tuple[float, ...]:
    return tuple(float(each) for each in text.split(","))


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    environ = os.environ
    parser = argparse.ArgumentParser(prog="bench.routing", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--trace", type=Path, default=environ.get("TRACE"), help="Mooncake .jsonl or Azure .csv")
    parser.add_argument("--speeds", type=numbers, default=environ.get("SPEEDS", "1,1,.5,.5,.25"))
    parser.add_argument("--load", type=numbers, default=environ.get("LOAD", ".5"), help="one or more, with commas")
    parser.add_argument("--seeds", type=int, default=int(environ.get("SEEDS", "10")), help="samples of the trace")
    parser.add_argument("--requests", type=int, default=int(environ.get("REQUESTS", "500")), help="in each sample")
    parser.add_argument("--stale", type=float, default=float(environ.get("STALE", ".25")), help="s between reports")
    parser.add_argument("--faults", default=environ.get("FAULTS", ""), help="die:0:.3,join:0:.6")
    parser.add_argument("--policies", default=environ.get("POLICIES", ",".join((*POLICIES, CLAIRVOYANT))))
    parser.add_argument("--plot", type=Path, help="SVG of the mean time to the first token by load, for several loads")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    found = parser.parse_args(arguments)
    if found.trace is None:
        parser.error("which trace? TRACE=FILE or --trace FILE")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options(arguments)
    faults = tuple(filter(None, chosen.faults.split(",")))
    lines: list[str] = []
    means: dict[str, list[tuple[float, float]]] = {}
    with ProcessPoolExecutor(chosen.processes) as processes:
        for load in chosen.load:
            jobs = [
                Job(chosen.trace, policy, chosen.speeds, load, seed, chosen.requests, chosen.stale, faults)
                for policy in chosen.policies.split(",")
                for seed in range(chosen.seeds)
            ]
            results: dict[str, list[Result]] = {}
            for job, result in zip(jobs, processes.map(run, jobs), strict=True):
                results.setdefault(job.policy, []).append(result)
            print(
                f"\n{chosen.trace.name}, speeds {chosen.speeds}, load {load}, {chosen.seeds} samples of "
                f"{chosen.requests} requests, reports every {chosen.stale} s, faults {list(faults)}"
            )
            print("\n".join(table(results)))
            print(nothing_below(floor(jobs[: chosen.seeds]), results))
            for policy, runs in results.items():
                means.setdefault(policy, []).append((load, statistics.fmean(each.first_token_mean for each in runs)))
            if OURS in results and len(results) > 1:
                equal = len(set(chosen.speeds)) == 1
                print("seed by seed: " + "\n              ".join(pairs(results, equal)), flush=True)
                found = ratios(results, equal)
                lines += [f"ratio {name}_load_{load:g} {value:.3f}" for name, value in found.items()]
    if chosen.plot:
        title = f"{chosen.trace.name}, machines of speed {', '.join(f'{each:g}' for each in chosen.speeds)}"
        chosen.plot.write_text(line_chart(title, "load", "mean time to first token, s", means, log_y=True))
    print()
    print("\n".join(lines))


if __name__ == "__main__":
    main()
