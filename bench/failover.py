"""How long failures last: real agents on hosts behind the software switch, under load, measured over many runs. Root.

Run: make bench-failover RUNS=30, or .venv/bin/python -m bench.failover --runs 30 [--blackholes 10] [--report]
Prints `figure NAME MEDIAN WORST` (seconds) for each figure, then the counts. What each figure is: docs/benchmarks/
failover.md, or FIGURES below.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.lan import lab
from tests.lan.chaos import document, logs
from tests.lan.chaos.faults import F1, F2, F3, LEADER, Fault, Freeze, Heal, Kill, Partition, Plug, Start, Thaw, Unplug
from tests.lan.chaos.judging import Outcome, judge
from tests.lan.chaos.kinds import FAR_KINDS, MODEL
from tests.lan.chaos.load_process import LoadProcess
from tests.lan.chaos.observation import Ended, Observation
from tests.lan.chaos.pool import ChaosAgent
from tests.lan.chaos.scenarios import Scenario
from tests.lan.chaos.signals import interrupt_on_signals
from tests.lan.chaos.stage import ChaosStage, Result
from tests.support.real_agents import whole

ROOT = Path(__file__).resolve().parents[1]

FIGURES = {
    "noticed_killed_s": "kill -9 until every other machine that was linked to it has dropped the link",
    "noticed_frozen_s": "the same after SIGSTOP",
    "noticed_unplugged_s": "the same after its cable was pulled",
    "leaderless_killed_s": "kill -9 of the leader until every other gateway had a request acknowledged by a new one",
    "leaderless_frozen_s": "the same after SIGSTOP of the leader",
    "leaderless_unplugged_s": "the same after the leader's cable was pulled",
    "stream_pause_killed_s": "longest pause in a stream that was continued elsewhere, its machine killed",
    "stream_pause_frozen_s": "the same, its machine frozen",
    "stream_pause_unplugged_s": "the same, its machine unplugged",
    "blackhole_back_s": "end of a 30 s blackhole until the machine serves others and is served by them",
    "seen_after_up_s": "`covey up` until every other machine sees it with its models ready",
    "timer_lag_s": "how late the loaded machine woke an idle timer, worst of each run",
}
HOSTS = 4
HELD_S = 5.0
"""How long a fault lasts: long enough for the slowest target (3 s) to be missed visibly."""
BLACKHOLE_S = 30.0
SEEN_WITHIN_S = 30.0


class Measurements:
    """Samples of every figure, and what must be zero."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {name: [] for name in FIGURES}
        self.new_requests_failed = 0
        self.requests = 0
        self.violations: list[str] = []

    def lines(self) -> list[str]:
        """`figure NAME MEDIAN WORST`, and the counts."""
        found = []
        for name, samples in self.samples.items():
            if samples:
                found.append(f"figure {name} {statistics.median(samples):.3f} {max(samples):.3f} runs {len(samples)}")
            else:
                found.append(f"figure {name} not measured: it never happened")
        found.append(f"figure new_requests_failed {self.new_requests_failed} of {self.requests}")
        found.append(f"figure violations {len(self.violations)}")
        return found


class Bench:
    """One pool, measured again and again."""

    def __init__(self, stage: ChaosStage, measured: Measurements) -> None:
        self._stage = stage
        self._measured = measured
        self._load: LoadProcess = stage.load

    def cycle(self) -> None:
        """The leader killed, started again, frozen, unplugged: each under load."""
        self._strike("killed", Kill((LEADER,)), Start((LEADER,)))
        self._strike("frozen", Freeze((LEADER,)), Thaw((LEADER,)))
        self._strike("unplugged", Unplug((LEADER,)), Plug((LEADER,)))

    def _strike(self, what: str, fault: Fault, mending: Fault) -> None:
        stage = self._stage
        stage.begin()
        victim = stage.agent(LEADER)
        survivors = [agent for agent in stage.pool.chaos_members if agent is not victim]
        self._load.run("failover")
        self._load.probe([(agent.name, MODEL) for agent in survivors], HELD_S + 1.0)
        time.sleep(1.0)
        fault_s = time.time()
        fault.strike(stage)
        time.sleep(max(0.0, fault_s + HELD_S - time.time()))
        probes = self._load.probes(HELD_S + 60.0)
        found = {agent.name: logs.records(agent.log_since()) for agent in survivors}
        if what == "killed":
            self._seen_after_up(victim, survivors)
        else:
            mending.strike(stage)
        self._finish(what, fault_s, victim, probes)
        self._note(f"noticed_{what}_s", _noticed_s(found, victim, fault_s))
        self._note(f"leaderless_{what}_s", _leaderless_s(found, probes, victim, fault_s))

    def _finish(self, what: str, fault_s: float, victim: ChaosAgent, probes: Sequence[Observation]) -> None:
        """Whole again; everything that the clients saw is judged."""
        result = Result(_AS_SCENARIO, 0)
        self._stage.mend(result)
        observations, lag_s = self._load.stop()
        self._note("timer_lag_s", lag_s)
        pauses = []
        for seen in [*observations, *probes]:
            if seen.ended is Ended.UNREACHABLE and seen.entry == victim.name:
                continue
            may_refuse = what == "unplugged" and seen.entry == victim.name and seen.kind in FAR_KINDS
            verdict = judge(seen, self._stage.undisturbed, self._stage.pool[seen.entry].history, may_refuse)
            self._measured.requests += 1
            if verdict.outcome is Outcome.VIOLATION:
                self._measured.violations.append(
                    f"{what}: {seen.kind} at {seen.entry} {seen.request_id}: {verdict.why}"
                )
            # Until the mending begins: afterwards another machine is at fault, if any.
            new = fault_s < seen.started_s < fault_s + HELD_S and seen.entry != victim.name
            self._measured.new_requests_failed += new and seen.ended is not Ended.FINISHED
            if verdict.outcome is Outcome.CONTINUED and seen.entry != victim.name and seen.gap_at_s > fault_s:
                pauses.append(seen.gap_s)
        self._measured.violations += result.violations
        if pauses:
            self._note(f"stream_pause_{what}_s", max(pauses))

    def _seen_after_up(self, victim: ChaosAgent, survivors: Sequence[ChaosAgent]) -> None:
        began_s = time.time()
        victim.start()
        pending = list(survivors)
        while pending and time.time() - began_s < SEEN_WITHIN_S:
            pools = {agent.name: self._stage.pool.pool(agent) for agent in pending}
            pending = [agent for agent in pending if not whole_but_leader(pools[agent.name], victim.node_id)]
            time.sleep(0.02)
        self._note("seen_after_up_s", time.time() - began_s)
        victim.wait_answering()

    def blackhole(self) -> None:
        """Two machines, each cut off from all, for 30 s."""
        stage = self._stage
        stage.begin()
        self._load.run("failover")
        Partition((F1,), (LEADER, F2, F3)).strike(stage)
        Partition((F2,), (LEADER, F1, F3)).strike(stage)
        time.sleep(BLACKHOLE_S)
        there = stage.agent(LEADER).name
        victims = [stage.agent(role).name for role in (F1, F2)]
        asked = [pair for name in victims for pair in ((there, f"only-{name}"), (name, f"only-{there}"))]
        self._load.probe(asked, 6.0)
        time.sleep(0.5)
        healed_s = time.time()
        Heal().strike(stage)
        probes = self._load.probes(60.0)
        for name in victims:
            pairs = [(there, f"only-{name}"), (name, f"only-{there}")]
            self._note("blackhole_back_s", max(_first_answer_s(probes, pair, healed_s) for pair in pairs))
        self._stage.mend(Result(_AS_SCENARIO, 0))
        self._load.stop()

    def _note(self, name: str, value_s: float) -> None:
        self._measured.samples[name].append(value_s)


_AS_SCENARIO = Scenario("bench", "one run of the bench", 0.0)


def whole_but_leader(pool: dict[str, object] | None, node_id: str) -> bool:
    """Whether this view holds the machine, reachable and ready, whoever leads."""
    return pool is not None and whole({**pool, "leader_node_id": node_id}, [node_id])


def _noticed_s(found: dict[str, list[dict[str, object]]], victim: ChaosAgent, fault_s: float) -> float:
    """The last of the survivors' first notes of the lost link."""
    times = []
    for records in found.values():
        lost = [
            one.at_s for one in logs.links_lost(records) if one.peer == victim.node_id and one.at_s >= fault_s - 0.01
        ]
        times += lost[:1]
    return max(times, default=float("inf")) - fault_s


def _leaderless_s(
    found: dict[str, list[dict[str, object]]], probes: Sequence[Observation], victim: ChaosAgent, fault_s: float
) -> float:
    """Until each survivor's first request that began under a new leader and was placed by it had its answer."""
    last_s = 0.0
    for name, records in found.items():
        adopted = [c.at_s for c in logs.followed(records) if c.at_s > fault_s and c.leader not in ("", victim.node_id)]
        since_s = min(adopted, default=float("inf"))
        acknowledged = [
            probe.ended_s
            for probe in probes
            if probe.entry == name and probe.started_s >= since_s and probe.why.endswith("by leader")
        ]
        last_s = max(last_s, min(acknowledged, default=float("inf")) - fault_s)
    return last_s


def _first_answer_s(probes: Sequence[Observation], pair: tuple[str, str], since_s: float) -> float:
    answered = [p.ended_s for p in probes if (p.entry, p.model) == pair and p.ended is Ended.FINISHED]
    return min((at_s for at_s in answered if at_s > since_s), default=float("inf")) - since_s


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.failover", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=30, help="of each fault (default 30)")
    parser.add_argument("--blackholes", type=int, help="of 30 s, two machines each (default: half of the runs)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="also write docs/benchmarks/failover.md")
    arguments = parser.parse_args()
    missing = lab.missing_requirement()
    if missing:
        print(f"bench.failover {missing}", file=sys.stderr)
        return 2
    interrupt_on_signals()
    measured = Measurements()
    blackholes = arguments.runs // 2 if arguments.blackholes is None else arguments.blackholes
    with ChaosStage(arguments.seed, hosts=HOSTS) as stage:
        bench = Bench(stage, measured)
        _repeat("run", arguments.runs, bench.cycle)
        _repeat("blackhole", blackholes, bench.blackhole)
    print("\n".join(measured.lines()))
    print("\n".join(f"VIOLATION {text}" for text in measured.violations[:20]))
    if arguments.report:
        _write(measured, arguments)
    return 1 if measured.violations or measured.new_requests_failed else 0


def _repeat(what: str, times: int, step: Callable[[], None]) -> None:
    for number in range(times):
        print(f"{what} {number + 1} of {times}", file=sys.stderr, flush=True)
        step()


def _write(measured: Measurements, arguments: argparse.Namespace) -> None:
    meanings = "\n".join(f"- `{name}`: {what}" for name, what in FIGURES.items())
    command = f"python -m bench.failover --runs {arguments.runs}"
    figures = "\n".join(measured.lines())
    content = f"\n## Figures\n\n{document.provenance(command, f'seed {arguments.seed}')}\n"
    content += f"Median and worst over the runs, in seconds:\n\n```\n{figures}\n```\n\n{meanings}\n\n"
    document.write_part(ROOT / "docs" / "benchmarks" / "failover.md", "figures", content)


if __name__ == "__main__":
    sys.exit(main())
