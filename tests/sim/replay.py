"""`python -m tests.sim.replay SEED [COUNT]`: run seeds and print what they came to, with a trace on failure."""

from __future__ import annotations

import logging
import statistics
import sys
import time
from collections import Counter

from tests.sim.chaos import run_seed
from tests.sim.cluster import Violation


def main() -> int:
    logging.disable(logging.CRITICAL)
    first = int(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    faults: Counter[str] = Counter()
    converged_s: list[float] = []
    violations, began_s = 0, time.monotonic()
    for seed in range(first, first + count):
        try:
            outcome = run_seed(seed)
        except Violation as violation:
            violations += 1
            print(violation)
        else:
            faults += outcome.faults
            converged_s.append(outcome.converged_s)
            if count == 1:
                print(outcome)
    elapsed_s = time.monotonic() - began_s
    print(dict(faults))
    if converged_s:
        print(f"converged_s median {statistics.median(converged_s):.2f} worst {max(converged_s):.2f}")
    print(f"seeds {count} violations {violations} seeds_per_hour {3600 * count / elapsed_s:.0f}")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
