"""One simulated machine: host, disk and clocks, and the process on it, which is made of the product's own parts.

MeshRuntime (election, membership), SchedulerService, RequestRunner and a node (node.py) share one ProcessLoop. A
machine can crash (process gone, host up), lose power (host gone), freeze, be suspended, and restart with its disk or
without. Not here: the network, what happens when (chaos.py).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.sim.loop import ProcessLoop
from tests.sim.node import SimNode

from covey_gateway.core.observer import SilentObserver
from covey_gateway.core.settings import RequestSettings
from covey_gateway.io.runner import RequestRunner
from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.events import Promise
from covey_mesh.core.facts import EngineState, NodeFacts
from covey_mesh.core.names import NodeId
from covey_mesh.core.stores import KnownPeer
from covey_mesh.core.timing import LAN, Timing
from covey_mesh.io.mesh import MeshRuntime
from covey_node.core.settings import ModelSpec
from covey_node.core.simulated import SimulatedSettings
from covey_scheduler.core.leaderless import choose_alone
from covey_scheduler.io.service import SchedulerService

if TYPE_CHECKING:
    from tests.sim.network import Network, SimTransport

MODEL = "model"
ENGINE = SimulatedSettings(
    prefill_tokens_per_s=4000.0, decode_tokens_per_s=60.0, running_limit=4, kv_cache_tokens=4096, start_s=0.1
)


@dataclass
class Disk:
    """Survives the process. `write_s`: how long an fsync takes; `full`: refuses."""

    promise: Promise | None = None
    peers: Sequence[KnownPeer] = ()
    write_s: float = 0.005
    full: bool = False


class SimStores:
    """PromiseStore of one process; a write ends only if the process lives until then."""

    def __init__(self, disk: Disk, process: ProcessLoop, befallen: Counter[str]) -> None:
        self._disk = disk
        self._process = process
        self._befallen = befallen

    def load(self) -> Promise | None:
        return self._disk.promise

    def save(self, promise: Promise, done: Callable[[Exception | None], None]) -> None:
        def written() -> None:
            if self._disk.full:
                self._befallen["refused_by_disk"] += 1
                done(OSError("disk full"))
                return
            self._disk.promise = promise
            done(None)

        self._process.call_later(self._disk.write_s, written)


class SimPeerStore:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def load(self) -> Sequence[KnownPeer]:
        return self._disk.peers

    def save(self, peers: Sequence[KnownPeer]) -> None:
        self._disk.peers = tuple(peers)


@dataclass(eq=False)
class Machine:
    """`clock_offset_s` and `clock_rate` make its BOOTTIME its own; `wall_offset_s` is what its owner set."""

    node_id: NodeId
    network: Network
    dice: random.Random
    timing: Timing = LAN
    host: str = ""
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    wall_offset_s: float = 1.7e9
    extra_delay_s: float = 0.0
    disk: Disk = field(default_factory=Disk)
    engine: SimulatedSettings | None = ENGINE
    powered: bool = True
    starts: int = 0
    highest_obeyed: Ballot = NO_BALLOT
    down_since_s: float | None = 0.0
    """True time since which no process runs here; None while one does."""
    thawed_s: float = 0.0
    """True time at which it last went on."""
    process: ProcessLoop = field(init=False)
    transport: SimTransport = field(init=False)
    mesh: MeshRuntime = field(init=False)
    scheduler: SchedulerService = field(init=False)
    runner: RequestRunner = field(init=False)
    node: SimNode = field(init=False)
    on_start: Callable[[Machine], None] | None = None

    def __post_init__(self) -> None:
        self.host = self.host or f"host-{self.node_id[:4]}-{self.node_id[-4:]}"
        self.address = f"{self.host}:7420"

    @property
    def alive(self) -> bool:
        return self.starts > 0 and not self.process.dead

    @property
    def running(self) -> bool:
        return self.starts > 0 and not self.process.dead and not self.process.frozen

    def now_s(self) -> float:
        """CLOCK_BOOTTIME."""
        return self.clock_offset_s + self.network.loop.now_s * self.clock_rate

    def unix_s(self) -> float:
        return self.wall_offset_s + self.network.loop.now_s

    @property
    def election(self) -> Any:
        return self.mesh._driver.election

    def start(self) -> None:
        """A new process on the old disk."""
        assert not self.alive
        self.powered = True
        self.starts += 1
        self.down_since_s = None
        self.process = ProcessLoop(self.network.loop, self.clock_rate)
        self.process.enter(self._compose)

    def _compose(self) -> None:
        """In the order of covey.compose."""
        process, dice, clock = self.process, self.dice, self.now_s
        incarnation = self.starts * 1000 + dice.randrange(1000)
        facts = NodeFacts(self.node_id, self.node_id[:4], "0", 1, incarnation, (self.address,))
        self.transport = self.network.transport(self, facts)
        stores: Any = SimStores(self.disk, process, self.network.befallen)
        loop: Any = process
        peers = SimPeerStore(self.disk)
        self.mesh = MeshRuntime(self.transport, facts, clock, dice.random, stores, peers, self.timing, loop)
        self.transport.events = self.mesh
        name, engine = MODEL, self.engine or ENGINE
        spec = ModelSpec(name, engine="simulated", simulated=engine)
        self.node = SimNode(self.node_id, incarnation, process, clock, self.mesh.publish, spec)
        self.mesh.serve_requests(self.node.open)
        self.scheduler = SchedulerService(self.mesh, clock, self.unix_s)
        self.runner = self._runner()
        process.loop.spawn(self.mesh.start())
        if self.on_start is not None:
            self.on_start(self)
        self.mesh.publish(self.node.load())
        self.scheduler.start()
        if self.engine is None:
            self.node.supervisor.state = EngineState.FAILED
        self.node.start(self.engine is not None)

    def _runner(self) -> RequestRunner:
        count = 0

        def new_id() -> str:
            nonlocal count
            count += 1
            return f"{self.starts}-{count}"

        return RequestRunner(
            self.mesh,
            self.now_s,
            self.dice.random,
            RequestSettings(),
            SilentObserver(),
            choose_alone,
            self.process,  # type: ignore[arg-type]
            new_id,
            self.unix_s,
        )

    def kill(self) -> None:
        """kill -9: the process is gone, its kernel resets the connections."""
        self._end(told=True)

    def cut_power(self) -> None:
        """Nobody is told anything."""
        self._end(told=False)
        self.powered = False

    def _end(self, told: bool) -> None:
        self.process.dead = True
        self.down_since_s = self.network.loop.now_s
        self.network.process_ended(self.transport, told)

    def freeze(self) -> None:
        self.down_since_s = self.network.loop.now_s
        self.process.freeze()

    def suspend(self) -> None:
        self.down_since_s = self.network.loop.now_s
        self.process.suspend()

    def thaw(self) -> None:
        self.down_since_s, self.thawed_s = None, self.network.loop.now_s
        self.process.thaw()

    def lose_disk(self, node_id: NodeId) -> None:
        """Another disk: no ballot, no peers, no key, so another machine at the same address."""
        assert not self.alive
        self.node_id, self.disk, self.highest_obeyed = node_id, Disk(), NO_BALLOT
