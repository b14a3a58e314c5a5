"""A light user beside a flooding one in virtual time: many pools, prompts and habits in seconds of real time.

    make bench-fairness-virtual

The leader is the real one, and so are each machine's admission, meter and engine model; loops, links and clients are
modelled (tests/support/flooded). One line a case: the light user's time to the first token against alone, without the
request sent in the very moment of the flood, and how long the flood took with and without the light user. Compare with
`make bench-fairness`, which runs real agents. Last, one `ratio NAME VALUE` for each case: p99 beside the flood / alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.flooded.pool import FloodedPool

UNEQUAL, EQUAL, TWO, ONE = (1.0, 0.5, 0.25), (1.0, 1.0, 1.0), (1.0, 1.0), (1.0,)
WORK_TOKENS = 200_000
"""Of the flood's prompts, on three machines."""


@dataclass(frozen=True, slots=True)
class Case:
    """Prompt tokens of both, the light user's answer, and its mean pause."""

    name: str
    speeds: Sequence[float]
    flood: int
    light: int = 1000
    answer: int = 16
    pause_s: float = 0.1


CASES = (
    Case("flood_250", UNEQUAL, 250),
    Case("flood_1000", UNEQUAL, 1000),
    Case("flood_3900", UNEQUAL, 3900),
    Case("flood_1000_equal_machines", EQUAL, 1000),
    Case("flood_1000_two_machines", TWO, 1000),
    Case("flood_1000_one_machine", ONE, 1000),
    Case("flood_3900_one_machine", ONE, 3900),
    Case("long_answers", UNEQUAL, 1000, answer=100),
    Case("pause_1_s", UNEQUAL, 1000, pause_s=1.0),
    Case("pause_4_s", UNEQUAL, 1000, pause_s=4.0),
    Case("short_prompts", UNEQUAL, 1000, light=100),
    Case("short_prompts_equal_machines", EQUAL, 1000, light=100),
)


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def light_s(pool: FloodedPool, case: Case, count: int = 10_000) -> list[float]:
    """Its times to the first token."""
    pause_s = (0.5 * case.pause_s, 1.5 * case.pause_s)
    requests = pool.light(count, prompt_tokens=case.light, output_tokens=case.answer, pause_s=pause_s)
    pool.run()
    return [request.first_token_s for request in requests]


def flood_alone_s(case: Case, count: int) -> float:
    pool = FloodedPool(speeds=case.speeds)
    pool.flood(count, range(len(case.speeds)), case.flood)
    pool.run()
    return pool.clock.now_s


def measure(case: Case) -> float:
    """Prints the case; its ratio."""
    count = WORK_TOKENS * len(case.speeds) // 3 // case.flood
    alone_s = percentile(light_s(FloodedPool(speeds=case.speeds), case, 20), 0.99)
    pool = FloodedPool(speeds=case.speeds)
    light_s(pool, case, 4)
    begun_s = pool.clock.now_s
    pool.flood(count, range(len(case.speeds)), case.flood)
    beside_s = light_s(pool, case)[1:]
    took_s, without_s = pool.clock.now_s - begun_s, flood_alone_s(case, count)
    cells = "".join(f"{percentile(beside_s, share) / alone_s:8.2f}" for share in (0.5, 0.9, 0.99))
    print(f"{case.name:30}{1000 * alone_s:9.0f}{len(beside_s):5}{cells}{took_s:9.0f}{without_s:9.0f}", flush=True)
    return percentile(beside_s, 0.99) / alone_s


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(f"{'':30}{'alone':>9}{'n':>5}{'p50':>8}{'p90':>8}{'p99':>8}{'the flood, s':>18}")
    print(f"{'case':30}{'ms':>9}{'':5}{'times alone':>24}{'beside':>9}{'alone':>9}")
    ratios = [(case.name, measure(case)) for case in CASES]
    for name, ratio in ratios:
        print(f"ratio fairness_virtual_{name} {ratio:.2f}")


if __name__ == "__main__":
    main()
