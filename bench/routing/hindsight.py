"""What a plan could reach that knows every arrival beforehand, and is made for the p99: a search, not the best of all.

    python -m bench.routing.hindsight --trace FILE --load .3

It begins with what our policy did, and moves those of the slowest requests, and what was served before them, to another
machine or place in its line as long as that helps. Machines compute one prompt after the other, each in the seconds it
takes alone with what their LRU caches hold, and nothing else: no answers, no network. So its figures are compared with
our own order of requests in the same arithmetic, which stands beside them. Not here: policies (the leader's Scheduler).
"""

from __future__ import annotations

import random
import statistics
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from bench.routing.__main__ import NO_LIMIT, OURS, options, p99
from bench.routing.engine import EngineProfile
from bench.routing.pool import Pool, Scenario, Served
from bench.routing.trace import BLOCK_TOKENS, PROFILE, Request, read_trace, sample
from covey_mesh.core.names import NodeId
from covey_scheduler.core.settings import SchedulerSettings

MOVES = 8000
SLOWEST = 12
"""Of so many requests one is chosen to be sooner, by itself or by what was served before it."""
BEFORE_MAX = 5
SAME_REQUEST, OTHER_MACHINE = 0.4, 0.7
"""Shares of the moves."""
MEAN_WEIGHT = 1.0
"""Of the mean beside the p99: who is not among the slowest is not to be forgotten."""

Lines = list[list[int]]
"""For each machine the numbers of its requests, in the order in which it computes their prompts."""


class Found(NamedTuple):
    """Seconds to the first token: p99 of our order, p99 and mean of the one found."""

    ours_p99: float
    p99: float
    mean: float


class Watched(Pool):
    """`lines`: which machine was given what."""

    def run(self) -> list[Served]:
        self.lines: Lines = [[] for _ in self.machines]
        return super().run()

    def _send(self, served: Served, attempt: int, node_id: NodeId) -> None:
        for line in self.lines:
            if served.request.number in line:
                line.remove(served.request.number)  # It was refused there.
        self.lines[self.machines.index(self.by_id[node_id])].append(served.request.number)
        super()._send(served, attempt, node_id)


def first_tokens_s(
    requests: Sequence[Request], line: Sequence[int], speed: float, profile: EngineProfile = PROFILE
) -> dict[int, float]:
    """Time to the first token of each request of one machine's line, by its number."""
    now_s, found = 0.0, {}
    cache: OrderedDict[int, None] = OrderedDict()
    for number in line:
        request, known = requests[number], 0
        for block in request.blocks:
            if block not in cache:
                break
            known += 1
        cached = min(known * BLOCK_TOKENS, request.prompt_tokens - 1)
        now_s = max(now_s, request.arrival_s) + profile.prompt_alone_s(request.prompt_tokens, cached) / speed
        for block in reversed(request.blocks):
            cache[block] = None
            cache.move_to_end(block)
        while len(cache) > profile.kv_tokens // BLOCK_TOKENS:
            cache.popitem(last=False)
        found[number] = now_s - request.arrival_s
    return found


def search(requests: Sequence[Request], lines: Lines, speeds: Sequence[float], moves: int, seed: int) -> Found:
    """Moves one request at a time, and keeps what is no worse."""
    dice, took_s = random.Random(seed), dict[int, float]()
    for line, speed in zip(lines, speeds, strict=True):
        took_s |= first_tokens_s(requests, line, speed)
    ours, lowest = p99([*took_s.values()]), _score(took_s)
    for _ in range(moves):
        changed = _moved(requests, lines, sorted(took_s, key=took_s.__getitem__, reverse=True)[:SLOWEST], dice)
        then_s = dict(took_s)
        for machine, line in changed.items():
            then_s |= first_tokens_s(requests, line, speeds[machine])
        score = _score(then_s)
        if score <= lowest:
            lowest, took_s = score, then_s
            lines = [changed.get(machine, line) for machine, line in enumerate(lines)]
    return Found(ours, p99([*took_s.values()]), statistics.fmean(took_s.values()))


def _moved(
    requests: Sequence[Request], lines: Lines, slowest: Sequence[int], dice: random.Random
) -> dict[int, list[int]]:
    """The lines that change: one request goes to about its place in order of arrival, there or elsewhere."""
    late = dice.choice(slowest)
    old = next(machine for machine, line in enumerate(lines) if late in line)
    before = max(0, lines[old].index(late) - dice.randrange(BEFORE_MAX))
    moving = late if dice.random() < SAME_REQUEST else lines[old][before]
    new = dice.randrange(len(lines)) if dice.random() < OTHER_MACHINE else old
    changed = {old: [number for number in lines[old] if number != moving]}
    target = changed.setdefault(new, list(lines[new]))
    later = (place for place, each in enumerate(target) if requests[each].arrival_s > requests[moving].arrival_s)
    place = next(later, len(target)) + dice.randrange(-BEFORE_MAX, BEFORE_MAX + 1)
    target.insert(max(0, place), moving)
    return changed


def _score(took_s: dict[int, float]) -> float:
    """The p99, a little of what comes after it, so that there is a way down, and the mean."""
    slowest = sorted(took_s.values(), reverse=True)[len(took_s) // 100 :][:5]
    return p99([*took_s.values()]) + 0.15 * statistics.fmean(slowest) + MEAN_WEIGHT * statistics.fmean(took_s.values())


def of_sample(requests: Sequence[Request], speeds: tuple[float, ...], report_s: float, moves: int, seed: int) -> Found:
    settings = SchedulerSettings(
        policy=OURS, tokens_per_block=BLOCK_TOKENS, queue_length_max=NO_LIMIT, queue_wait_s_max=NO_LIMIT
    )
    pool = Watched(requests, Scenario(speeds, report_s), settings)
    pool.run()
    return search(requests, pool.lines, speeds, moves, seed)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = options(arguments)
    trace, lines = read_trace(chosen.trace), list[str]()
    for load in chosen.load:
        found = []
        for seed in range(chosen.seeds):
            requests = sample(trace, chosen.requests, load, sum(chosen.speeds), seed)
            found.append(of_sample(requests, chosen.speeds, chosen.stale, MOVES, seed))
            print(f"load {load}, seed {seed}: p99 {found[-1].ours_p99:.2f} s, {found[-1].p99:.2f} s found", flush=True)
        ours, reached = statistics.fmean(each.ours_p99 for each in found), statistics.fmean(each.p99 for each in found)
        print(f"load {load}: p99 {ours:.2f} s ours, {reached:.2f} s with hindsight", flush=True)
        lines.append(f"ratio hindsight_p99_vs_ours_load_{load:g} {reached / ours:.3f}")
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main()
