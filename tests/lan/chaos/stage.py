"""Plays scenarios on a pool behind the software switch and accounts for everything that clients and logs saw."""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.lan.chaos import lags, logs
from tests.lan.chaos.faults import F1, LEADER, Lines, OnAgents
from tests.lan.chaos.judging import Outcome, Told, Undisturbed, judge
from tests.lan.chaos.kinds import FAR_KINDS, KINDS
from tests.lan.chaos.load_process import LoadProcess
from tests.lan.chaos.near_ties import KnownTexts
from tests.lan.chaos.observation import Ended, Observation
from tests.lan.chaos.pool import ChaosAgent, ChaosPool
from tests.lan.chaos.scenarios import Scenario
from tests.lan.chaos.variants import SIMULATED, Variant
from tests.lan.lab import Lab
from tests.lan.switch import SoftwareSwitch
from tests.support.engines import engine_sockets

NOTHING = Scenario("", "", 0.0)
LOOK_EVERY_S = 0.1
VIOLATIONS_SHOWN_MAX = 10
COUNTED = {"loss": "lost", "duplication": "duplicated", "reordering": "reordered", "jitter_s": "delayed"}
"""Field of a wire's state -> the count that proves that it struck."""


@dataclass(frozen=True)
class Strike:
    """When (Unix time) what was done, and to which machines."""

    at_s: float
    machines: tuple[str, ...]


@dataclass
class Result:
    """What came of one scenario. Times in seconds; None where nothing of the kind happened."""

    scenario: Scenario
    seed: int
    outcomes: Counter[Outcome] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    pause_s: float = 0.0
    pause_of: str = ""
    leaderless_s: float | None = None
    whole_s: float = 0.0
    lag_s: float = 0.0
    agents_lag_s: float | None = None
    parted: int = 0
    clean_errors: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        return sum(self.outcomes.values())


class ChaosStage:
    """A whole pool on a LAN of its own, from `__enter__` to `__exit__`."""

    def __init__(self, seed: int, variant: Variant = SIMULATED, hosts: int | None = None) -> None:
        """`hosts`: other than the variant's."""
        self._seed = seed
        self._variant = variant
        self._hosts = variant.hosts if hosts is None else hosts
        self._stack = ExitStack()
        self._roles: dict[str, str] = {}
        self._known: KnownTexts | None = None
        self.undisturbed: dict[tuple[str, int], Told] = {}
        self.switch: SoftwareSwitch
        self.pool: ChaosPool
        self.load: LoadProcess

    def __enter__(self) -> ChaosStage:
        try:
            self._set_up()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _set_up(self) -> None:
        made: list[SoftwareSwitch] = []
        make = lambda: made.append(SoftwareSwitch(self._seed)) or made[0]  # type: ignore[func-returns-value]  # noqa: E731
        lab = self._stack.enter_context(Lab(self._hosts, make_switch=make))
        self.switch = made[0]
        variant = self._variant
        self.pool = ChaosPool(lab.hosts, variant.settings, variant.models)
        self._stack.callback(self.pool.close)
        self.pool.start(variant.ready_within_s)
        self.load = LoadProcess({host.name: host.namespace for host in lab.hosts}, self._seed)
        self._stack.callback(self.load.close)
        self._ask_undisturbed()

    def _ask_undisturbed(self) -> None:
        found = self.load.undisturbed(list(self.pool.agents), self._variant.kinds)
        if not self._variant.exact:
            self._known = KnownTexts(found, self._engine)
            return
        for seen in found:
            told = Told(seen.text, KINDS[seen.kind].max_tokens)
            assert len(seen.text.split()) == told.tokens
            assert self.undisturbed.setdefault((seen.kind, seen.prompt_number), told) == told, "two different answers"

    def _engine(self) -> Path:
        """The socket of one that runs."""
        return next(path for name in self.pool.servers for path in engine_sockets(self.pool[name]).values())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    # --- roles -------------------------------------------------------------------------------------------------------

    def agent(self, role: str) -> ChaosAgent:
        return self.pool[self._roles[role]]

    def port(self, role: str) -> str:
        return f"port{self._roles[role].removeprefix('h')}"

    def bind_roles(self) -> None:
        """As the pool is now; it must be whole."""
        self._roles = self._variant.roles(self.pool.leader().name, sorted(self.pool.agents))

    # --- playing -----------------------------------------------------------------------------------------------------

    def play(self, scenario: Scenario, seconds_min: float = 0.0) -> Result:
        """Returns when the pool is whole again, or has failed to become so."""
        result = Result(scenario, self._seed)
        self.begin(result)
        before = self.switch.counts()
        looks = {agent.name: lags.buckets(agent.host) for agent in self.pool.chaos_members}
        self.load.run(scenario.mix, pause_s_max=self._variant.pause_s_max)
        started_s = time.time()
        struck: list[Strike] = []
        for at_s, fault in scenario.steps:
            time.sleep(max(0.0, started_s + at_s - time.time()))
            if isinstance(fault, OnAgents):
                struck.append(Strike(time.time(), tuple(self._roles[role] for role in fault.roles)))
            fault.strike(self)
        ends_s = started_s + max(scenario.seconds, seconds_min)
        mended = self._whole_by(ends_s, result)
        time.sleep(max(0.0, ends_s - time.time()))
        self._check_faults_struck(scenario, before, result)
        result.violations += [
            f"{agent.name} ended by itself ({agent.exit_code}):\n{agent.last_lines()}" for agent in self._died()
        ]
        # Looked at again: a machine may have seemed whole because nobody had noticed yet that it is not.
        self.mend(None if mended and self.pool.is_whole() else result)
        observations, result.lag_s = self.load.stop()
        result.agents_lag_s = self._agents_lag_s(looks)
        self._judge(observations, struck, result)
        self._read_logs(started_s, result)
        return result

    def _agents_lag_s(self, before: dict[str, lags.Buckets]) -> float | None:
        """The worst of the agents that ran all the while."""
        steady = [a for a in self.pool.chaos_members if not a.history.ended and not a.history.frozen]
        found = [lags.worst_s(before[agent.name], lags.buckets(agent.host)) for agent in steady]
        return max((lag_s for lag_s in found if lag_s is not None), default=None)

    def begin(self, result: Result | None = None) -> None:
        """The pool is whole, roles are bound, and accounts begin anew."""
        self._await_whole(result or Result(NOTHING, self._seed))
        self.bind_roles()
        for agent in self.pool.chaos_members:
            agent.history.ended.clear()
            agent.history.frozen.clear()
            agent.history.killed.clear()
            agent.log_since()

    def mend(self, result: Result | None) -> None:
        """Whatever is still broken; with `result`, also wait until the pool is whole."""
        self.switch.heal()
        for agent in self.pool.chaos_members:
            agent.thaw()
            agent.signal_engines(signal.SIGCONT)
            agent.host.plug()
            agent.free_disk()
            if not agent.running:
                agent.start()
        for agent in self.pool.chaos_members:
            agent.wait_answering()
            agent.inner("engine heal")
        if result is not None:
            self._await_whole(result)

    def _await_whole(self, result: Result) -> None:
        """All see all, ready, under one leader, or it is a violation."""
        within_s = self._variant.whole_within_s
        if not self._whole_by(time.time() + within_s, result):
            result.violations.append(f"not whole {within_s:g} s after everything was mended (S2)")

    def _whole_by(self, until_s: float, result: Result) -> bool:
        """Whether it came to be so; `result.whole_s` says how long that took."""
        begun_s = time.time()
        while True:
            mended = self.pool.is_whole()
            result.whole_s = time.time() - begun_s
            if mended:
                return True
            if time.time() > until_s:
                return False
            time.sleep(LOOK_EVERY_S)

    # --- accounts ----------------------------------------------------------------------------------------------------

    def _died(self) -> list[ChaosAgent]:
        """Agents that do not run although nobody ended them."""
        members = self.pool.chaos_members
        return [
            agent for agent in members if not agent.running and not agent.history.was_ended(time.time(), time.time())
        ]

    def _judge(self, observations: list[Observation], struck: list[Strike], result: Result) -> None:
        parted_before = self._known.parted if self._known is not None else 0
        self._count(observations, result)
        if self._known is not None:
            result.parted = self._known.parted - parted_before
        moved = result.outcomes[Outcome.RETRIED] + result.outcomes[Outcome.CONTINUED]
        if result.scenario.moves and not moved:
            result.violations.append(nothing_moved(observations, struck[0]))

    def _count(self, observations: list[Observation], result: Result) -> None:
        cut_off = {self._roles[role] for role in result.scenario.cut_off}
        for seen in observations:
            history = self.pool[seen.entry].history
            if seen.ended is Ended.UNREACHABLE and history.was_ended(seen.started_s, seen.ended_s):
                # Nobody there, as expected; nothing was asked.
                continue
            may_refuse = seen.kind in FAR_KINDS and seen.entry in cut_off
            expected, doubt = self._expected(seen)
            machine = self.pool[seen.machine].history if seen.machine in self.pool.agents else None
            verdict = judge(seen, expected, history, may_refuse, machine, result.lag_s)
            result.outcomes[verdict.outcome] += 1
            if verdict.outcome is Outcome.VIOLATION:
                result.violations.append(
                    f"{seen.kind} at {seen.entry} ({seen.request_id}, {seen.machine}): {verdict.why}"
                    + (f": {doubt}" if doubt else "")
                )
            elif verdict.outcome is Outcome.CLEAN_ERROR:
                result.clean_errors[f"{seen.kind}: {seen.code}: {seen.detail}"] += 1
            gap_began_s = seen.gap_at_s - seen.gap_s
            if verdict.outcome is not Outcome.GATEWAY_GONE and not history.was_frozen(gap_began_s, seen.gap_at_s):
                _note_pause(seen, verdict.outcome, result)

    def _expected(self, seen: Observation) -> tuple[Undisturbed, str]:
        """What to hold an answer to, and where no model would write it: why."""
        if self._known is None:
            return self.undisturbed, ""
        told, doubt = self._known.expected(seen)
        return {(seen.kind, seen.prompt_number): told}, doubt

    def _read_logs(self, started_s: float, result: Result) -> None:
        gaps: list[float] = []
        for agent in self.pool.chaos_members:
            found = logs.records(agent.log_since())
            changes = logs.followed(found)
            for since_s, gap_s in logs.leaderless_s(changes):
                span = since_s, since_s + gap_s
                if not agent.history.was_ended(*span) and not agent.history.was_frozen(*span):
                    gaps.append(gap_s)
            if not result.scenario.wiped:
                result.violations += [f"S1: {agent.name} {text}" for text in logs.ballots_fell(changes)]
            ours = [text for text in logs.errors(found) if "cannot write the ballot" not in text]
            result.violations += [f"{agent.name} logged an error: {text}" for text in ours]
        result.leaderless_s = max(gaps, default=None)

    def _check_faults_struck(self, scenario: Scenario, before: dict[str, int], result: Result) -> None:
        """A fault that never struck proves nothing."""
        after = self.switch.counts()
        for _, fault in scenario.steps:
            wanted = [
                count for name, count in COUNTED.items() if isinstance(fault, Lines) and getattr(fault.line, name)
            ]
            for count in wanted:
                if after[count] == before[count]:
                    result.violations.append(f"the fault did not strike: no frame was {count}")


def nothing_moved(observations: list[Observation], strike: Strike) -> str:
    """What was seen of a fault that should have moved answers, and has not."""
    theirs = [seen for seen in observations if seen.machine in strike.machines]
    under_way = [seen for seen in theirs if seen.started_s < strike.at_s < seen.ended_s]
    slowest_s = max((seen.ended_s - seen.started_s for seen in under_way), default=0.0)
    ended = Counter(seen.ended.name.lower().replace("_", " ") for seen in under_way)
    became = ", ".join(f"{count} {how}" for how, count in ended.items()) or "none to become anything"
    return (
        f"no answer was retried or continued; the first fault was on {' and '.join(strike.machines)}: of {len(theirs)} "
        f"answers that they served first, {len(under_way)} were under way then ({became}; the slowest took "
        f"{slowest_s:.1f} s)"
    )


def _note_pause(seen: Observation, outcome: Outcome, result: Result) -> None:
    if seen.gap_s > result.pause_s:
        result.pause_s = seen.gap_s
        where = f"{seen.kind} at {seen.entry}, first served by {seen.machine}, {seen.request_id}"
        how = f"{outcome.value}, attempts {seen.attempts}, continued {seen.continued}"
        result.pause_of = f"{where}: {how}, over {seen.gap_at_s - seen.started_s:.2f} s after its start"


__all__ = ["F1", "LEADER", "ChaosStage", "Result"]
