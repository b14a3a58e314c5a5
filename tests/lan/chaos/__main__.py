"""make chaos: plays scenarios, prints the table, writes docs/benchmarks/failover.md. Needs root.

Replay of one: python -m tests.lan.chaos --scenario leader-killed --seed 7
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

from tests.lan import lab
from tests.lan.chaos import document, report
from tests.lan.chaos.scenarios import SCENARIOS
from tests.lan.chaos.signals import interrupt_on_signals
from tests.lan.chaos.stage import ChaosStage, Result

REPORT = Path(__file__).resolve().parents[3] / "docs" / "benchmarks" / "failover.md"


def main() -> int:
    arguments = _arguments()
    if arguments.list:
        for scenario in SCENARIOS.values():
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
    if arguments.report is not None:
        document.write_chaos(arguments.report, results, sys.argv[1:])
        print(f"written: {arguments.report}")
    return 1 if total else 0


def _play(arguments: argparse.Namespace) -> list[Result]:
    names = arguments.scenario or list(SCENARIOS)
    results: list[Result] = []
    for repetition in range(arguments.repeat):
        seed = arguments.seed + repetition
        print(f"seed {seed}: starting the pool", flush=True)
        with ChaosStage(seed) as stage:
            for name in names:
                result = stage.play(SCENARIOS[name], arguments.seconds)
                results.append(result)
                print("  ".join(report.row(result)), flush=True)
                if result.pause_s >= 1.0:
                    print(f"    longest pause: {result.pause_of}", flush=True)
                for text in result.violations[: report.VIOLATIONS_SHOWN_MAX]:
                    print(f"    VIOLATION {text}", flush=True)
    return results


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lan.chaos", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scenario", action="append", choices=list(SCENARIOS), metavar="NAME", help="one of --list; repeat for more"
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
