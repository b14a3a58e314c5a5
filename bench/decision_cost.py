"""How long one scheduling decision takes, for pools of 10, 100 and 1,000 machines and prompts of 4 KB.

    make bench-decision-cost [BENCH_ARGUMENTS="--asks 2000 --json"]

A decision is everything from the prompt to the answer: the gateway hashes the prompt's blocks, the leader filters,
predicts, queues, reserves and records. Beside it, turn by turn and with the same prompts, decides a router that does
what LMetric needs and nothing else (bench/support/plain_lmetric.py). Prompts come from conversations that share their
first quarter; each request ends as the sixteenth after it begins. What either does then is no part of a decision:
nobody waits for it, and both bring the request's machine up to date at that moment.

"after a report": a machine's new load is taken in before each ask. "record read": the record's verdicts are worked out
too, as for `covey explain`. Last comes one line `ratio NAME VALUE` for each size of pool.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from bench.support.plain_lmetric import PlainLMetric
from covey_mesh.core.asking import Answer, Ask, AttemptReport
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, PoolView, Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core import events
from covey_scheduler.core.prefix import BLOCK_BYTES, prefix_hashes
from covey_scheduler.core.scheduler import Scheduler
from covey_scheduler.core.settings import SchedulerSettings

MACHINES = (10, 100, 1000)
PROMPT_BYTES = 4096
SHARED_BYTES = 1024
CONVERSATIONS = 64
IN_FLIGHT = 16
WARM_UP = 64
BETWEEN_S = 0.1
"""Of the scheduler's own, virtual time."""
SELF = NodeId(f"{0:032x}")
PROMPT_TOKENS = PROMPT_BYTES // 4
TOKENS_PER_BLOCK = SchedulerSettings().tokens_per_block


@dataclass(frozen=True)
class Row:
    """Median (and 99th percentile) microseconds."""

    machines: int
    ours_us: float
    ours_p99_us: float
    after_report_us: float
    record_read_us: float
    lmetric_us: float
    lmetric_p99_us: float


def member(number: int) -> Member:
    node_id = NodeId(f"{number:032x}")
    load = ModelLoad(
        "bench", EngineState.READY, "simulated", Task.GENERATE, 32_768,
        running_requests=number % 5, running_limit=64, waiting_limit=64, queued_tokens=100 * (number % 7),
        kv_cache_tokens_total=500_000, kv_cache_tokens_free=400_000,
        prefill_tokens_per_s=20_000.0 + 1000 * (number % 11), decode_tokens_per_s=40.0 + number % 13,
    )  # fmt: skip
    facts = NodeFacts(node_id, f"host{number}", "0", 1, 1)
    return Member(facts, NodeLoad(node_id, 1, 1, (), (load,)), reachable=True)


def prompts(seed: int = 0) -> list[bytes]:
    draw = random.Random(seed)
    shared = draw.randbytes(SHARED_BYTES)
    return [shared + draw.randbytes(PROMPT_BYTES - SHARED_BYTES) for _ in range(CONVERSATIONS)]


class Ours:
    """A leader alone with its gateway, driven through its events."""

    def __init__(self, machines: int) -> None:
        self.members = {m.node_id: m for m in map(member, range(machines))}
        self.scheduler = Scheduler(SELF)
        self._now_s, self._version = 10.0, 1
        self._step(events.ViewChanged(self._view()))
        self._step(events.BecameLeader(Ballot(1, SELF)))
        self._now_s += SchedulerSettings().collect_s

    def decide(self, request_id: str, prompt: bytes) -> Answer:
        self._now_s += BETWEEN_S
        ask = Ask(request_id, 1, "bench", PROMPT_TOKENS, 256, prefix_hashes(prompt))
        (reply,) = self._step(events.AskReceived(SELF, ask))
        return reply.answer

    def ended(self, request_id: str, answer: Answer) -> None:
        self._step(events.Reported(SELF, AttemptReport(request_id, 1, answer.node_id)))

    def reported(self, number: int) -> PoolView:
        """The view with a newer load of one machine."""
        touched = self.members[NodeId(f"{number:032x}")]
        models = tuple(map(replace, touched.load.models))
        fresh = replace(touched.load, sequence=touched.load.sequence + 1, models=models)
        self.members = self.members | {touched.node_id: replace(touched, load=fresh)}
        return self._view()

    def take(self, view: PoolView) -> None:
        self._step(events.ViewChanged(view))

    def _view(self) -> PoolView:
        self._version += 1
        return PoolView(SELF, self._version, SELF, Ballot(1, SELF), self.members)

    def _step(self, event: events.Event) -> list[events.Effect]:
        return self.scheduler.step(self._now_s, event)


def measure(machines: int, asks: int) -> Row:
    """Turn by turn, so that a busy moment of this computer hits everybody."""
    loads = [member(number).load.models[0] for number in range(machines)]
    lmetric = PlainLMetric([(load.running_requests, load.queued_tokens) for load in loads], TOKENS_PER_BLOCK)
    quiet, changing, draw, texts = Ours(machines), Ours(machines), random.Random(1), prompts()
    times: dict[str, list[float]] = {name: [] for name in ("ours", "report", "record", "lmetric")}
    running: deque[tuple[str, Answer, Answer]] = deque()
    for number in range(asks + WARM_UP):
        name, prompt = f"r{number}", draw.choice(texts)
        view = changing.reported(number % machines)
        began = time.perf_counter()
        lmetric.decide(name, prompt, PROMPT_TOKENS)
        after_lmetric = time.perf_counter()
        answer = quiet.decide(name, prompt)
        after_ours = time.perf_counter()
        changing.take(view)
        other = changing.decide(name, prompt)
        after_report = time.perf_counter()
        assert answer.decision is not None
        read = len(answer.decision.candidates)
        after_record = time.perf_counter()
        assert read, "every machine is on record"
        assert answer.node_id, "the bench's pool always has room"
        assert other.node_id, "the bench's pool always has room"
        times["lmetric"].append(after_lmetric - began)
        times["ours"].append(after_ours - after_lmetric)
        times["report"].append(after_report - after_ours)
        times["record"].append(after_ours - after_lmetric + after_record - after_report)
        running.append((name, answer, other))
        if len(running) > IN_FLIGHT:
            ended, first, second = running.popleft()
            lmetric.ended(ended)
            quiet.ended(ended, first)
            changing.ended(ended, second)
    us = {name: sorted(1e6 * each for each in values[WARM_UP:]) for name, values in times.items()}
    median = {name: statistics.median(values) for name, values in us.items()}
    p99 = {name: values[int(len(values) * 0.99) - 1] for name, values in us.items()}
    return Row(
        machines, median["ours"], p99["ours"], median["report"], median["record"], median["lmetric"], p99["lmetric"]
    )


def hashing_us(repeats: int = 500) -> float:
    """Median microseconds to hash one prompt; both sides do it once."""
    prompt, times = os.urandom(PROMPT_BYTES), []
    for _ in range(repeats):
        started = time.perf_counter()
        prefix_hashes(prompt)
        times.append((time.perf_counter() - started) * 1e6)
    return statistics.median(times)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench.decision_cost", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--asks", type=int, default=1000, help="asks measured at each size of pool")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows = [measure(machines, options.asks) for machines in MACHINES]
    ran_on = (
        f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} CPUs, {platform.machine()}"
    )
    if options.json:
        print(json.dumps({"ran_on": ran_on, "hashing_us": hashing_us(), "rows": [asdict(row) for row in rows]}))
        return
    print(f"one decision, prompts of {PROMPT_BYTES} bytes, {options.asks} asks a row, medians in us; {ran_on}")
    print(f"hashing the {PROMPT_BYTES // BLOCK_BYTES} blocks of a prompt, in every figure: {hashing_us():.0f} us\n")
    titles = ("ours", "(p99)", "after a report", "record read", "plain LMetric")
    print("machines  " + "  ".join(f"{title:>8}" for title in titles))
    for row in rows:
        print(
            f"{row.machines:>8}  {row.ours_us:>8.0f}  {row.ours_p99_us:>8.0f}  {row.after_report_us:>14.0f}  "
            f"{row.record_read_us:>11.0f}  {row.lmetric_us:>13.0f}"
        )
    print()
    for row in rows:
        print(f"ratio decision_{row.machines}_vs_plain_lmetric {row.ours_us / row.lmetric_us:.2f}")


if __name__ == "__main__":
    main()
