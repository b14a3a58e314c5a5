"""How long one scheduling decision takes, for pools of 10, 100 and 1,000 machines and a 4 KB prompt.

    python bench/decision_cost.py [--asks 200] [--json]

Prints a table and what it ran on. A decision is everything the leader does for one ask: filters, predictions, the
queue, the reservation and the record. "view changed" adds a fresh report of one machine before each ask. Beside it
stands plain LMetric: nothing but a look-up of the prompt's blocks and a product for each machine, and the lowest of
them. Last comes one line `ratio NAME VALUE` for each size of pool.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from covey_mesh.core.asking import Ask, AttemptReport
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core import events
from covey_scheduler.core.prefix import prefix_hashes
from covey_scheduler.core.scheduler import Scheduler

MACHINES = (10, 100, 1000)
PROMPT_BYTES = 4096
SELF = NodeId(f"{0:032x}")


@dataclass(frozen=True)
class Row:
    """Microseconds for one ask."""

    machines: int
    view_changed: bool
    median_us: float
    p99_us: float


def member(number: int) -> Member:
    node_id = NodeId(f"{number:032x}")
    load = ModelLoad(
        "bench", EngineState.READY, "simulated", Task.GENERATE, 32_768,
        running_requests=number % 5, running_limit=64, waiting_limit=64, queued_tokens=100 * (number % 7),
        kv_cache_tokens_total=500_000, kv_cache_tokens_free=400_000,
        prefill_tokens_per_s=2000.0 + 100 * (number % 11), decode_tokens_per_s=40.0 + number % 13,
    )  # fmt: skip
    facts = NodeFacts(node_id, f"host{number}", "0", 1, 1)
    return Member(facts, NodeLoad(node_id, 1, 1, (), (load,)), reachable=True)


def measure(machines: int, asks: int, view_changed: bool) -> Row:
    members = {m.node_id: m for m in (member(n) for n in range(machines))}
    scheduler = Scheduler(SELF)
    scheduler.step(0.0, events.ViewChanged(PoolView(SELF, 1, SELF, Ballot(1, SELF), members)))
    scheduler.step(0.0, events.BecameLeader(Ballot(1, SELF)))
    hashes = prefix_hashes(b"a conversation so far. " * (PROMPT_BYTES // 23 + 1))[: PROMPT_BYTES // 512]
    warm_up, times_us = 5, []
    for number in range(asks + warm_up):
        now_s = 10.0 + number
        ask = Ask(f"r{number}", 1, "bench", PROMPT_BYTES // 4, 256, hashes)
        if view_changed:
            touched = members[NodeId(f"{number % machines:032x}")]
            fresh = replace(
                touched.load, sequence=touched.load.sequence + 1, models=tuple(map(replace, touched.load.models))
            )
            members = members | {touched.node_id: replace(touched, load=fresh)}
        view = PoolView(SELF, number + 2, SELF, Ballot(1, SELF), members)
        started = time.perf_counter()
        if view_changed:
            scheduler.step(now_s, events.ViewChanged(view))
        effects = scheduler.step(now_s, events.AskReceived(SELF, ask))
        times_us.append((time.perf_counter() - started) * 1e6)
        (answer,) = (effect.answer for effect in effects)
        assert answer.node_id is not None, "the bench's pool always has room"
        scheduler.step(now_s + 0.05, events.Reported(SELF, AttemptReport(ask.request_id, 1, answer.node_id)))
    times_us = sorted(times_us[warm_up:])
    return Row(machines, view_changed, statistics.median(times_us), times_us[int(len(times_us) * 0.99) - 1])


def plain_lmetric_us(machines: int, asks: int) -> float:
    """Median microseconds of LMetric alone: no filters, no queue, no account, no record; caches that nobody changes."""
    hashes = prefix_hashes(b"a conversation so far. " * (PROMPT_BYTES // 23 + 1))[: PROMPT_BYTES // 512]
    prompt, times = PROMPT_BYTES // 4, []
    # As after a run of the other bench: every machine has seen half of this prompt.
    pool = [(number, 100 * (number % 7), number % 5, set(hashes[: len(hashes) // 2])) for number in range(machines)]
    for _ in range(asks):
        started = time.perf_counter()
        best, lowest = -1, float("inf")
        for number, queued, batch, known in pool:
            matched = 0
            for each in hashes:
                if each not in known:
                    break
                matched += 1
            cost = (queued + prompt - matched * 128) * (batch + 1)
            if cost < lowest:
                best, lowest = number, cost
        times.append((time.perf_counter() - started) * 1e6)
        assert best >= 0
    return statistics.median(times)


def hashing_us(repeats: int = 500) -> float:
    """Median microseconds to hash one prompt, in the gateway."""
    prompt, times = os.urandom(PROMPT_BYTES), []
    for _ in range(repeats):
        started = time.perf_counter()
        prefix_hashes(prompt)
        times.append((time.perf_counter() - started) * 1e6)
    return statistics.median(times)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--asks", type=int, default=200, help="asks measured in each row")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    plain = {machines: plain_lmetric_us(machines, options.asks) for machines in MACHINES}
    rows = [measure(machines, options.asks, changed) for machines in MACHINES for changed in (False, True)]
    ran_on = (
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs, {platform.machine()}"
    )
    if options.json:
        print(
            json.dumps(
                {
                    "ran_on": ran_on,
                    "hashing_us": hashing_us(),
                    "plain_lmetric_us": plain,
                    "rows": [asdict(row) for row in rows],
                }
            )
        )
        return
    print(f"one decision, prompt of {PROMPT_BYTES} bytes, {options.asks} asks a row; {ran_on}")
    print(f"hashing the prompt (in the gateway): {hashing_us():.0f} us\n")
    print(f"{'machines':>8}  {'view changed':>12}  {'median us':>10}  {'p99 us':>10}")
    for row in rows:
        changed = "yes" if row.view_changed else "no"
        print(f"{row.machines:>8}  {changed:>12}  {row.median_us:>10.0f}  {row.p99_us:>10.0f}")
    print()
    for machines, plain_us in plain.items():
        print(f"{machines:>8}  plain LMetric {plain_us:>10.0f}")
    print()
    for row in rows:
        if not row.view_changed:
            print(f"ratio decision_{row.machines}_vs_plain_lmetric {row.median_us / plain[row.machines]:.2f}")


if __name__ == "__main__":
    main()
