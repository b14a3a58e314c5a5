"""One simulated machine: its process, disk and clock, and the loop that its process sees.

The process is the real MeshRuntime. A machine can crash (process gone, host up), lose power (host gone), freeze
(SIGSTOP, suspend) and restart with its disk.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.events import Promise
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.names import NodeId
from covey_mesh.core.stores import KnownPeer
from covey_mesh.core.timing import LAN, Timing
from covey_mesh.io.mesh import MeshRuntime

if TYPE_CHECKING:
    from tests.sim.network import Network


@dataclass
class Disk:
    """Survives the process. `write_s`: how long an fsync takes; `full`: refuses."""

    promise: Promise | None = None
    peers: Sequence[KnownPeer] = ()
    write_s: float = 0.005
    full: bool = False


class SimStores:
    """PromiseStore and PeerStore of one process; a write ends only if the process lives until then."""

    def __init__(self, disk: Disk, loop: ProcessLoop) -> None:
        self._disk = disk
        self._loop = loop

    def load(self) -> Promise | None:
        return self._disk.promise

    def save(self, promise: Promise, done: Callable[[Exception | None], None]) -> None:
        def written() -> None:
            if self._disk.full:
                done(OSError("disk full"))
                return
            self._disk.promise = promise
            done(None)

        self._loop.call_later(self._disk.write_s, written)


class SimPeerStore:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def load(self) -> Sequence[KnownPeer]:
        return self._disk.peers

    def save(self, peers: Sequence[KnownPeer]) -> None:
        self._disk.peers = tuple(peers)


class ProcessLoop:
    """What a process sees of the loop: nothing runs while it is frozen, or after it died. Times are its own clock's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rate: float) -> None:
        self._loop = loop
        self._rate = rate
        self.dead = False
        self.frozen = False
        self._held: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def run(self, callback: Callable[..., Any], *args: Any) -> None:
        """Now, or when thawed, or never."""
        if self.dead:
            return
        if self.frozen:
            self._held.append((callback, args))
        else:
            callback(*args)

    def thaw(self) -> None:
        self.frozen = False
        held, self._held = self._held, []
        for callback, args in held:
            self._loop.call_soon(self.run, callback, *args)

    def call_later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(delay_s / self._rate, self.run, callback, *args)

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> asyncio.Handle:
        return self._loop.call_soon(self.run, callback, *args)

    def create_future(self) -> asyncio.Future[Any]:
        return self._loop.create_future()


@dataclass
class Machine:
    """`clock_offset_s` and `clock_rate` make its clock its own."""

    node_id: NodeId
    network: Network
    dice: random.Random
    timing: Timing = LAN
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    disk: Disk = field(default_factory=Disk)
    powered: bool = True
    loop: ProcessLoop | None = None
    mesh: MeshRuntime | None = None
    starts: int = 0
    highest_obeyed: Ballot = NO_BALLOT

    @property
    def address(self) -> str:
        return f"host-{self.node_id[:4]}-{self.node_id[-4:]}:7420"

    @property
    def alive(self) -> bool:
        return self.loop is not None and not self.loop.dead

    @property
    def running(self) -> bool:
        return self.loop is not None and not self.loop.dead and not self.loop.frozen

    def now_s(self) -> float:
        return self.clock_offset_s + self.network.loop.time() * self.clock_rate

    @property
    def election(self) -> Any:
        assert self.mesh is not None
        return self.mesh._election

    def start(self) -> None:
        """A new process on the old disk."""
        assert not self.alive
        self.powered = True
        self.starts += 1
        self.loop = ProcessLoop(self.network.loop, self.clock_rate)
        facts = NodeFacts(
            self.node_id, self.node_id[:4], "0", 1, self.starts * 1000 + self.dice.randrange(1000), (self.address,)
        )
        transport = self.network.transport(self, facts)
        stores: Any = SimStores(self.disk, self.loop)
        loop: Any = self.loop
        peers = SimPeerStore(self.disk)
        self.mesh = MeshRuntime(transport, facts, self.now_s, self.dice.random, stores, peers, self.timing, loop)
        transport.events = self.mesh
        try:
            self.mesh.start().send(None)
        except StopIteration:
            return
        raise AssertionError("start must not wait")

    def kill(self) -> None:
        """kill -9: the process is gone, its kernel resets the connections."""
        self._end()
        self.network.process_ended(self, told=True)

    def cut_power(self) -> None:
        """Nobody is told anything."""
        self._end()
        self.powered = False
        self.network.process_ended(self, told=False)

    def _end(self) -> None:
        assert self.loop is not None
        assert self.mesh is not None
        self.loop.dead = True
        self.mesh.halt()

    def freeze(self) -> None:
        assert self.loop is not None
        self.loop.frozen = True

    def thaw(self) -> None:
        assert self.loop is not None
        self.loop.thaw()
