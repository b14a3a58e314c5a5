"""What must hold of a simulated pool (DESIGN.md, "Discovery, membership, leadership"), and the watching of it.

S1 no machine obeys two leaders or a lower ballot: looked at in every step of every election, where it can begin to be
   false. S3 is in client.py.
L1 a request fails only if no capable machine was reachable from its gateway the whole time.
Also: an attempt runs only where its latest answer put it; no attempt stays open on a machine that has been gone for
   long; nobody follows a leader that is gone for longer than a lease; an engine is never given more than it can take;
   in the end every table is empty or within its named bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.sim.client import Request, Violation
from tests.sim.machine import MODEL, Machine

from covey_mesh.core.asking import Answer, Outcome
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.exchange import ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.limits import DECISIONS_KEPT
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timing import LAN, lease_s

if TYPE_CHECKING:
    from tests.sim.cluster import Cluster

NOTICED_WITHIN_S = LAN.deaf_deadline_s + LAN.answer_deadline_s + LAN.open_wait_s
"""However a machine is gone, no attempt stays open on it for longer: the slowest way of noticing, and a redial."""

FOLLOWED_S = lease_s(9) / (1 - LAN.clock_drift) + 1.0
"""A lease by a slow clock, and what was on its way when the leader went."""

SETTLED_S = 4.0
"""A machine counts as capable only this long after its last trouble: a lease, a pre-vote, a reconnection."""


class Watch:
    """Hooked into each process as it starts."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._jumped_at_s: dict[str, float] = {}
        self.attempts_most = 0
        self.granted = 0
        """Attempts that began without an ask."""
        self.violations: list[str] = []

    def found(self, what: str) -> None:
        """From inside of covey, which would take an exception for its own bug."""
        self.violations.append(what)

    def process_started(self, machine: Machine) -> None:
        self._watch_election(machine)
        self._watch_attempts(machine)
        self._watch_engine(machine)

    # --- S1 ---------------------------------------------------------------------------------------------------------

    def _watch_election(self, machine: Machine) -> None:
        election = machine.election
        grants, step, seen = election.grants, election.step, NO_BALLOT

        def watched(now_s: float, event: Any) -> Any:
            nonlocal seen
            held_before = len(election.leadership.held) if election.leadership is not None else 0
            effects = step(now_s, event)
            if grants._ballot is not seen:
                seen = grants._ballot
                self._obeys(machine, grants.live(machine.now_s()))
            leadership = election.leadership
            if leadership is not None and len(leadership.held) > held_before:
                for node in self._cluster.machines:
                    if node.alive and node.node_id in leadership.held:
                        self._counts_on(machine, node)
            return effects

        election.step = watched

    def _obeys(self, machine: Machine, obeyed: Ballot) -> None:
        if obeyed == NO_BALLOT:
            return
        if obeyed < machine.highest_obeyed:
            raise Violation(f"S1: {machine.address} obeys {obeyed} after {machine.highest_obeyed}")
        machine.highest_obeyed = obeyed
        if machine.disk.promise is None or machine.disk.promise.ballot < obeyed:
            raise Violation(f"S1: {machine.address} obeys {obeyed}, which is not on its disk")
        for leader in self._cluster.machines:
            if leader.alive and leader.election.leadership is not None:
                self._counts_on(leader, machine)

    def _counts_on(self, leader: Machine, node: Machine) -> None:
        """While a leader counts on a machine, that machine obeys nobody else."""
        if not leader.election.holds(node.node_id, leader.now_s()):
            return
        obeyed = node.election.grants.live(node.now_s())
        if obeyed == NO_BALLOT or obeyed.node_id == leader.node_id:
            return
        if self._cluster.loop.now_s - self._jumped_at_s.get(node.address, -1e9) < 2 * LAN.lease_max_s:
            return  # its BOOTTIME itself was wrong: no lease can hold across that
        raise Violation(f"S1: {leader.address} counts on {node.address}, which obeys {obeyed}")

    def clock_jumped(self, machine: Machine) -> None:
        self._jumped_at_s[machine.address] = self._cluster.loop.now_s

    # --- attempts ---------------------------------------------------------------------------------------------------

    def _watch_attempts(self, machine: Machine) -> None:
        """An attempt is opened where the answer to that very attempt said, or as one of those that were granted."""
        runner: Any = machine.runner
        placed: dict[tuple[str, int], NodeId] = {}
        granted = Granted(machine)
        answer_received, decide_alone, open_on = runner.answer_received, runner.decide_alone, runner.open_on

        def answered(leader: NodeId, answer: Answer) -> None:
            if answer.outcome is Outcome.ASSIGNED and answer.node_id is not None:
                placed[answer.request_id, answer.attempt] = answer.node_id
                granted.told(answer)
            answer_received(leader, answer)

        def decided(ask: Any) -> Any:
            event = decide_alone(ask)
            node_id = getattr(event, "node_id", None)
            if node_id is not None:
                placed[ask.request_id, ask.attempt] = node_id
            return event

        def check(node_id: NodeId, request: ForwardedRequest) -> None:
            where = placed.get((request.request_id, request.attempt))
            if where is None and request.attempt == 1 and granted.takes(node_id, request.prompt_tokens):
                self.granted += 1
                where = placed[request.request_id, 1] = node_id
            counts = request.request_id.endswith("-count")  # tokens, where the leader had said before
            if where != node_id and not counts:
                self.found(f"attempt {request.attempt} of {request.request_id} opened on {node_id}, not {where}")

        def opened(node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
            check(node_id, request)
            return open_on(node_id, request, sink)

        def opened_straight(node_id: NodeId, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
            check(node_id, request)
            return open_straight(node_id, request, sink)

        runner.answer_received, runner.decide_alone, runner.open_on = answered, decided, opened
        open_straight, runner._straights._open_on = runner._straights._open_on, opened_straight

    def _watch_engine(self, machine: Machine) -> None:
        """Admission, not the engine's own queue, keeps requests back."""
        node: Any = machine.node
        served: Any = node.served
        run, opened = served._run, served.open

        def check() -> None:
            engine = node.supervisor.engine
            bounds = served._admission.bounds
            if engine is not None and engine.running > bounds.running:
                self.found(f"{machine.address} gave its engine {engine.running} of {bounds.running} requests")

        def watched(attempt: Any) -> None:
            run(attempt)
            check()

        def watched_open(request: ForwardedRequest, sink: ResponseSink) -> Upstream:
            upstream: Upstream = opened(request, sink)
            check()
            return upstream

        served._run, served.open = watched, watched_open

    def check_noticed(self) -> None:
        """Call now and then: open attempts on machines that have been gone for long."""
        for gateway in self._cluster.machines:
            if not gateway.running:
                continue
            for flight in gateway.runner._flights.values():
                node_id = flight.machine.node_id
                since_s = None if node_id is None else self._gone_since_s(gateway, node_id)
                if since_s is None or not flight.record.attempts:
                    continue
                open_s = gateway.now_s() - flight.record.attempts[-1].started_s
                gone_s = self._cluster.loop.now_s - max(since_s, gateway.thawed_s)
                if min(open_s, gone_s) > NOTICED_WITHIN_S:
                    raise Violation(f"{gateway.address} still waits for {node_id}, gone since {since_s:.2f}")

    def check_followed(self) -> None:
        """Call now and then: nobody follows a leader that has been gone for longer than a lease."""
        cuts = self._cluster.network.cut_since_s
        for machine in self._cluster.machines:
            leader_id = machine.election.leader(machine.now_s()) if machine.running else None
            leader = None if leader_id is None else self._cluster.by_id.get(leader_id)
            if leader is None or leader is machine or leader.node_id != leader_id:
                continue
            found = [leader.down_since_s, cuts.get((leader.address, machine.address))]
            since = [since_s for since_s in found if since_s is not None]
            if since and self._cluster.loop.now_s - max(min(since), machine.thawed_s) > FOLLOWED_S:
                raise Violation(f"{machine.address} still follows {leader.address}, gone since {min(since):.2f}")

    def _gone_since_s(self, gateway: Machine, node_id: NodeId) -> float | None:
        node = self._cluster.by_id.get(node_id)
        if node is None or node is gateway:
            return None
        cuts = self._cluster.network.cut_since_s
        found = [
            node.down_since_s,
            cuts.get((gateway.address, node.address)),
            cuts.get((node.address, gateway.address)),
        ]
        since = [since_s for since_s in found if since_s is not None]
        return min(since, default=None)

    # --- L1 ---------------------------------------------------------------------------------------------------------

    def check_end(self, request: Request) -> None:
        """A request that ended: was it owed an answer?"""
        record = request.runner.record(request.active.request_id) if request.active is not None else None
        if record is not None:
            self.attempts_most = max(self.attempts_most, len(record.attempts))
        if request.outcome == "completed":
            return
        if request.asked.choices > 1 and request.outcome == "broken" and record is not None and not record.parts:
            return  # several choices from one machine: none goes on elsewhere (continuation.py)
        if request.outcome.startswith("4"):
            self.found(f"a correct request was refused: {request}: {request.detail}")
        capable = self._cluster.troubles.capable(request.machine, request.submitted_s)
        if capable:
            names = ", ".join(machine.address for machine in capable)
            self.found(f"L1: {request}: {request.detail}, though these could serve it all the time: {names}")

    # --- in the end -------------------------------------------------------------------------------------------------

    def check_tables(self) -> None:
        """Nobody asks any more: what requests needed is given back, what is remembered is within its bound."""
        for machine in self._cluster.machines:
            if machine.alive:
                for name, size, bound in tables(machine, len(self._cluster.machines) + self._cluster.identities):
                    if size > bound:
                        raise Violation(f"{machine.address}: {name} holds {size}, more than {bound}")


def tables(machine: Machine, machines: int) -> list[tuple[str, float, float]]:
    """(name, size, bound) of everything that could grow, on an idle machine that has met `machines` others."""
    runner: Any = machine.runner
    mesh: Any = machine.mesh
    membership: Any = mesh._membership
    election: Any = mesh._driver.election
    core: Any = machine.scheduler._core
    served: Any = machine.node.served
    engine: Any = machine.node.supervisor.engine
    links = list(machine.transport.links)
    leadership = election.leadership
    found: list[tuple[str, float, float]] = [
        ("gateway's requests", len(runner._flights), 0),
        ("gateway's plain requests", len(runner._straights), 0),
        ("gateway's attempts", len(runner._in_flight), 0),
        ("gateway's cut requests", len(runner._sharded), 0),
        ("gateway's bytes of cut requests", runner._sharded_budget.used, 0),
        ("gateway's held bytes", runner._budget.used, 0),
        ("gateway's records", len(runner.records), DECISIONS_KEPT),
        ("gateway's records of parts", len(runner._part_records), DECISIONS_KEPT),
        ("mesh's attempts", len(mesh._attempts._counts) + mesh._attempts._waiting_count, 0),
        ("mesh's queries", len(mesh._queries._waiting), 0),
        ("mesh's links", len(mesh._links), machines + 1),
        ("mesh's numbers", len(mesh._numbers), machines + 1),
        ("mesh's effects", mesh._driver.waiting_effects, 0),
        ("membership's machines", len(membership.peers), machines),
        ("membership's hints", len(membership._dials.hints), machines),
        ("membership's dials", len(membership._dials.in_flight), machines),
        ("membership's timers", len(membership._me.timers._heap), 20 * machines + 40),
        ("leader's rounds", 0 if leadership is None else len(leadership.sent), 200),
        ("leader's grants", 0 if leadership is None else len(leadership.held), machines),
        ("scheduler's queue", len(core._queues), 0),
        ("scheduler's reservations", len(core._pool.inflight), 0),
        ("scheduler's grants", core._granted.outstanding(MODEL, machine.now_s())[0], 0),
        ("scheduler's requests", len(core._known), core._settings.known_requests_max),
        ("node's attempts", len(served._attempts), 0),
        ("node's tickets", len(served._admission._live), 0),
        ("node's running", served._admission.running + served._admission.waiting, 0),
        ("node's reserved tokens", served._admission._reserved_tokens, 0),
        ("engine's requests", 0 if engine is None else engine.running + len(engine._requests), 0),
        ("links' attempts", sum(len(link.opened) + len(link.served) for link in links), 0),
        ("links' bytes", sum(link.outbox.waiting_bytes for link in links), 0),
    ]
    for record in membership.peers:
        if record.link is not None:
            found.append(("questions unanswered", len(record.link.liveness._asked), 4))
    return found


class Granted:
    """What one gateway may start without asking, by what it was told: the twin of its own account."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._grants: list[tuple[NodeId, float, list[int]]] = []

    def told(self, answer: Answer) -> None:
        if answer.grant is not None and answer.node_id is not None:
            grant = answer.grant
            left = [grant.requests, grant.prompt_tokens]
            self._grants.append((answer.node_id, self._machine.now_s() + grant.valid_s, left))

    def takes(self, node_id: NodeId, prompt_tokens: int) -> bool:
        """False: nothing that is left covers it."""
        now_s = self._machine.now_s()
        self._grants = [each for each in self._grants if each[1] >= now_s]
        for node, _, left in self._grants:
            if node == node_id and left[0] >= 1 and left[1] >= prompt_tokens:
                left[0] -= 1
                left[1] -= prompt_tokens
                return True
        return False


class Troubles:
    """Since when nothing has been wrong with a machine, or between two."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._well_since_s: dict[str, float] = {}
        self._pair_well_since_s: dict[tuple[str, str], float] = {}

    def touched(self, machine: Machine, until_s: float | None = None) -> None:
        """Something was wrong with it until now (or will be until then)."""
        now_s = self._cluster.loop.now_s
        self._well_since_s[machine.address] = max(now_s if until_s is None else until_s, self._of(machine))

    def parted(self, source: Machine, to: Machine) -> None:
        """They could not hear each other until now."""
        self._pair_well_since_s[source.address, to.address] = self._cluster.loop.now_s

    def _of(self, machine: Machine) -> float:
        return self._well_since_s.get(machine.address, 0.0)

    def capable(self, gateway: Machine, since_s: float) -> list[Machine]:
        """Machines that could have served a request of this gateway ever since, without interruption."""
        limit_s = since_s - SETTLED_S
        if not gateway.running or self._of(gateway) > limit_s:
            return []
        return [node for node in self._cluster.machines if self._could(gateway, node, limit_s)]

    def _could(self, gateway: Machine, node: Machine, limit_s: float) -> bool:
        if not node.running or node.node.lie is not None or not node.node.ready or self._of(node) > limit_s:
            return False
        if node.node.supervisor.ready_since_s > limit_s:
            return False
        for pair in ((gateway.address, node.address), (node.address, gateway.address)):
            if pair in self._cluster.network.cuts or self._pair_well_since_s.get(pair, 0.0) > limit_s:
                return False
        return True


class LostLinks:
    """A MeshListener that hears of lost links only."""

    def __init__(self, lost: Callable[[NodeId, LinkLoss], None]) -> None:
        self.member_lost = lost

    def ask_received(self, gateway: NodeId, ask: Any) -> None:
        pass

    def answer_received(self, leader: NodeId, answer: Any) -> None:
        pass

    def attempt_reported(self, gateway: NodeId, report: Any) -> None:
        pass

    def granted_work(self, gateway: NodeId, work: Any) -> None:
        pass

    def leadership_changed(self, leader: NodeId | None, ballot: Ballot) -> None:
        pass

    def member_changed(self, node_id: NodeId) -> None:
        pass
