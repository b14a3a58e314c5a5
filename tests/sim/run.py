"""Run seeds of the simulator: `python -m tests.sim.run --seeds 300`, or `--hours 1`, or `--first SEED --seeds 1`.

Writes nothing but its lines. The last one is `seeds N violations N seeds_per_hour N`; the hour is one of CPU time, on
one core, so that a busy machine does not falsify it.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
import sys
import time
from collections.abc import Iterator

from tests.sim.chaos import BEFALLEN, KINDS, Totals, run_seed
from tests.sim.cluster import Violation

PROGRESS_S = 3.0
KINDS_COUNT_FROM_SEEDS = 50
"""A shorter run may by chance have seen no fault of some kind."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="the first seed (default 0)")
    parser.add_argument("--seeds", type=int, help="how many seeds (default 300, or as many as fit in --hours)")
    parser.add_argument("--hours", type=float, help="run for so many hours (0.01 is 36 s)")
    parser.add_argument("--lone", action="store_true", help="pools of which one machine alone serves")
    parser.add_argument("--keep-going", action="store_true", help="go on after a violation")
    parser.add_argument("--digest", action="store_true", help="print a digest of all that happened in these seeds")
    return parser.parse_args()


def seeds(options: argparse.Namespace) -> Iterator[int]:
    began_s = time.monotonic()
    count = options.seeds or (None if options.hours else 300)
    seed = options.first
    while count is None or seed < options.first + count:
        if options.hours and time.monotonic() - began_s >= options.hours * 3600:
            return
        yield seed
        seed += 1


def main() -> int:
    options = arguments()
    totals, told_s = Totals(), time.monotonic()
    began_s, digest = time.process_time(), hashlib.sha256()
    for seed in seeds(options):
        try:
            outcome = run_seed(seed, options.lone)
            totals.add(outcome)
            digest.update(repr(outcome).encode())
        except Violation as violation:
            totals.seeds += 1
            totals.violations += 1
            print(violation, flush=True)
            if not options.keep_going:
                break
        if time.monotonic() - told_s > PROGRESS_S:
            told_s = time.monotonic()
            print(f"... {_line(totals, began_s)}", flush=True)
    missing = totals.missing() if totals.seeds >= KINDS_COUNT_FROM_SEEDS else []
    print("faults " + " ".join(f"{kind}={totals.faults[kind]}" for kind in KINDS))
    print("befallen " + " ".join(f"{effect}={totals.befallen[effect]}" for effect in BEFALLEN))
    print("requests " + " ".join(f"{name.replace(' ', '_')}={n}" for name, n in totals.requests.most_common()))
    print(f"granted {totals.granted}")
    print(f"attempts_of_one_request_most {totals.attempts_most}")
    if totals.converged_s:
        print(f"converged_s median {statistics.median(totals.converged_s):.2f} worst {max(totals.converged_s):.2f}")
    if options.digest:
        print(f"digest {digest.hexdigest()}")
    if missing:
        print(f"never happened: {' '.join(missing)}")
    print(_line(totals, began_s))
    return 1 if totals.violations or missing else 0


def _line(totals: Totals, began_s: float) -> str:
    rate = totals.seeds * 3600 / max(1e-9, time.process_time() - began_s)
    return f"seeds {totals.seeds} violations {totals.violations} seeds_per_hour {rate:.0f}"


if __name__ == "__main__":
    sys.exit(main())
