"""make chaos: plays scenarios, prints the table, writes docs/benchmarks/failover.md. Needs root.

Replay of one: python -m tests.lan.chaos --scenario leader-killed --seed 7
Those with real vLLM engines alone: python -m tests.lan.chaos --engine vllm
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
from pathlib import Path

from tests.lan import lab
from tests.lan.chaos import document, report
from tests.lan.chaos.scenarios import SCENARIOS, VLLM_SCENARIOS, Scenario
from tests.lan.chaos.signals import interrupt_on_signals
from tests.lan.chaos.stage import ChaosStage, Result
from tests.lan.chaos.variants import SIMULATED, VLLM, Variant

REPORT = Path(__file__).resolve().parents[3] / "docs" / "benchmarks" / "failover.md"
ALL = {**SCENARIOS, **VLLM_SCENARIOS}


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        for scenario in ALL.values():
            print(f"{scenario.name:40} {scenario.what}")
        return 0
    missing = lab.missing_requirement()
    if missing:
        print(f"chaos {missing}", file=sys.stderr)
        return 2
    interrupt_on_signals()
    try:
        results = _play(arguments)
    except KeyboardInterrupt:
        print("interrupted; everything was removed", file=sys.stderr)
        return 130
    print(f"\n{report.table(results)}\n")
    texts = {
        "longest pauses": report.pauses(results),
        "texts of real models": report.parted(results),
        "clean errors": report.clean_errors(results),
        "VIOLATIONS": report.violations(results),
    }
    for title, text in texts.items():
        if text:
            print(f"{title}:\n{text}\n")
    total = sum(len(result.violations) for result in results)
    print(
        f"scenarios {len(results)} requests {sum(r.requests for r in results)} violations {total} seed {arguments.seed}"
    )
    return 1 if total else 0


def _play(arguments: argparse.Namespace) -> list[Result]:
    results: dict[str, list[Result]] = {}
    for repetition in range(arguments.repeat):
        seed = arguments.seed + repetition
        for variant, scenarios in _chosen(arguments):
            print(f"seed {seed}: starting {variant.hosts} hosts, engines: {variant.engine}", flush=True)
            so_far = results.setdefault(variant.engine, [])
            with ChaosStage(seed, variant) as stage:
                for scenario in scenarios:
                    so_far.append(stage.play(scenario, arguments.seconds))
                    _tell(so_far[-1])
            if arguments.report is not None:
                document.write_chaos(arguments.report, variant.engine, so_far, sys.argv[1:])
                print(f"written: {arguments.report}", flush=True)
    return [result for played in results.values() for result in played]


def _chosen(arguments: argparse.Namespace) -> list[tuple[Variant, list[Scenario]]]:
    """What is played, in this order; a variant of which nothing is played is not started."""
    found = []
    for variant, scenarios in ((SIMULATED, SCENARIOS), (VLLM, VLLM_SCENARIOS)):
        if arguments.scenario:
            played = [scenarios[name] for name in arguments.scenario if name in scenarios]
        else:
            played = list(scenarios.values()) if arguments.engine in ("", variant.engine) else []
        if played and variant is VLLM and importlib.util.find_spec("vllm") is None:
            print("left out, for want of vLLM (make setup installs it): " + ", ".join(s.name for s in played))
        elif played:
            found.append((variant, played))
    return found


def _tell(result: Result) -> None:
    print("  ".join(report.row(result)), flush=True)
    if result.pause_s >= 1.0:
        print(f"    longest pause: {result.pause_of}", flush=True)
    for text in result.violations[: report.VIOLATIONS_SHOWN_MAX]:
        print(f"    VIOLATION {text}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lan.chaos", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scenario", action="append", choices=list(ALL), metavar="NAME", help="one of --list; repeat for more"
    )
    parser.add_argument(
        "--engine",
        choices=("simulated", "vllm"),
        default="",
        help="only scenarios with these (default: all)",
    )
    parser.add_argument("--list", action="store_true", help="the scenarios, and what each is")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000), help="of wires and load")
    parser.add_argument("--repeat", type=int, default=1, help="rounds, each with the next seed and a new pool")
    parser.add_argument("--seconds", type=float, default=0.0, help="least duration of each scenario")
    parser.add_argument(
        "--report", type=Path, nargs="?", const=REPORT, help="also write the page (default: the docs' own)"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
