"""The composition root: the only place that knows every component. It connects and starts them, and ends them in order.

Start: mesh (memory of ballots and peers, then the port), scheduler, node, gateway's edges, enrolment, discovery.
A request made on this machine and served on it crosses no link: the mesh opens it through the node directly.

Not here: any decision. What a component does is in its package.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any

from covey import __version__
from covey.admin import AdminRoutes
from covey.config import SIMULATED, Configuration, is_loopback
from covey.doctor.agent_side import AgentDoctor
from covey.errors import UserError
from covey.gateway_processes import (
    best_classes,
    gateway_processes,
    in_shares,
    process_settings,
    refuse_shared,
    request_settings,
    sharding_settings,
)
from covey.leadership import leadership_source
from covey.membership import invitation, revoke_invitations
from covey.models import model_specs
from covey.reach import ip_addresses, listen_ip, reachable
from covey.security import key_ring
from covey.setting import split_address
from covey_gateway.core.batches.settings import DAY_S, BatchSettings
from covey_gateway.core.keys import KeyRing
from covey_gateway.core.settings import HttpSettings
from covey_gateway.io.batches.door import BatchDoor
from covey_gateway.io.batches.library import BatchLibrary
from covey_gateway.io.batches.metrics import BatchCollector
from covey_gateway.io.batches.pages import BatchPages
from covey_gateway.io.batches.peers import PeerPort
from covey_gateway.io.batches.runner import BatchRunner
from covey_gateway.io.grpc_door import GrpcDoor
from covey_gateway.io.http_server import HttpServer
from covey_gateway.io.loop_lag import LoopLag
from covey_gateway.io.metrics import GatewayMetrics
from covey_gateway.io.runner import RequestRunner
from covey_gateway.io.standard_pages import StandardPages
from covey_gateway.io.status import PoolStatus
from covey_mesh.core.addresses import InterfaceAddress, host_port, usable_addresses
from covey_mesh.core.advertisement import advertisement_of
from covey_mesh.core.facts import ModelLoad, NodeFacts, NodeLoad
from covey_mesh.core.limits import PROTOCOL_VERSION
from covey_mesh.io.ballot_store import BallotStore
from covey_mesh.io.discovery import Discovery, DiscoverySettings, boottime_s
from covey_mesh.io.disk_worker import DiskWorker
from covey_mesh.io.enrolment_port import EnrolmentPort
from covey_mesh.io.identity import Identity
from covey_mesh.io.interfaces import InterfaceMonitor
from covey_mesh.io.mesh import FROM_MDNS, FROM_PERSON, MeshRuntime
from covey_mesh.io.peer_cache import PeerCache
from covey_mesh.io.pool_name import PoolName
from covey_mesh.io.transport import GrpcTransport, ListenError
from covey_node.core.settings import NodeSettings
from covey_node.io.machine import machine
from covey_node.io.node import Node
from covey_node.io.speed_book import SpeedBook
from covey_scheduler.core.leaderless import choose_alone
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.io.service import SchedulerService

log = logging.getLogger(__name__)

INCARNATION_BITS = 63
BATCH_FOLDER = "batches"
"""Below the state directory: uploaded files, batches and their answers."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a started agent answers, HOST:PORT."""

    http: str
    grpc: str
    link: str


class Agent:
    """One machine's share of the pool. `shut_down` is called when something asks this agent to end."""

    def __init__(
        self, configuration: Configuration, identity: Identity, shut_down: Callable[[float | None], None]
    ) -> None:
        self._configuration = configuration
        self._identity = identity
        self._ask_to_end = shut_down
        self.crashed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopped = False
        self._enrolment: EnrolmentPort | None = None
        self._monitor = InterfaceMonitor()
        self._make_mesh()
        self._make_node()
        self._make_gateway()
        self._make_discovery()

    # --- made ---------------------------------------------------------------------------------------------------------

    def _make_mesh(self) -> None:
        configuration, identity = self._configuration, self._identity
        self._facts = self._first_facts()
        self._disk = DiskWorker()
        data_port = configuration.data_port or None
        self._transport = GrpcTransport(identity, None, configuration.link, self._facts, data_port=data_port)
        self._mesh = MeshRuntime(
            self._transport,
            self._facts,
            boottime_s,
            random.random,
            BallotStore(identity.state_dir, self._disk),
            PeerCache(identity.state_dir, self._disk),
            source=leadership_source(configuration, identity.pool_id),
        )
        self._transport.report_to(self._mesh)
        self._doctor = AgentDoctor(self._mesh, identity, self._mdns_addresses, boottime_s, time.time)

    def _mdns_addresses(self) -> tuple[InterfaceAddress, ...]:
        return usable_addresses(self._monitor.current) if self._configuration.mdns else ()

    def _first_facts(self) -> NodeFacts:
        found = machine()
        return NodeFacts(
            node_id=self._identity.node_id,
            name=self._configuration.name,
            version=__version__,
            protocol=PROTOCOL_VERSION,
            incarnation=secrets.randbits(INCARNATION_BITS) | 1,
            cpu_name=found.cpu_name,
            cpu_count=found.cpu_count,
            memory_total_bytes=found.memory_total_bytes,
        )

    def _make_node(self) -> None:
        configuration = self._configuration
        settings = NodeSettings(
            models=model_specs(configuration),
            runtime_dir=str(configuration.runtime_dir),
            device=configuration.device,
            cpu_threads=configuration.cpu_threads or None,
            start_timeout_s=configuration.engine_start_timeout_s,
            stop_grace_s=configuration.grace_s,
            # A simulated engine's speed is what it was told.
            calibration_s=0.0 if configuration.engine == SIMULATED else configuration.calibration_s,
        )
        self._node = Node(
            settings,
            self._identity.node_id,
            self._facts.incarnation,
            boottime_s,
            self._load_changed,
            speeds=SpeedBook(self._identity.state_dir, self._disk),
        )
        self._scheduler = SchedulerService(
            self._mesh, boottime_s, time.time, SchedulerSettings(policy=self._configuration.policy)
        )

    def _make_gateway(self) -> None:
        identity, mesh, scheduler = self._identity, self._mesh, self._scheduler
        loop = asyncio.get_running_loop()
        queue_lengths = scheduler.queue_lengths
        self._metrics = GatewayMetrics(__version__, identity.node_id, mesh.view, queue_lengths, boottime_s)
        mesh.subscribe(self._metrics)
        self._loop_lag = LoopLag(loop, self._metrics.loop_lagged)
        self._runner = RequestRunner(
            mesh, boottime_s, random.random, request_settings(self._configuration), self._metrics, choose_alone, loop,
            sharding=sharding_settings(self._configuration), best_classes=best_classes(self._configuration),
        )  # fmt: skip
        self._processes = gateway_processes(
            self._configuration.gateway_processes, mesh, self._metrics, self._of_process
        )
        self._status = PoolStatus(
            mesh, identity.pool_id, identity.pool_name, self._runner, queue_lengths, self._processes
        )
        keys = key_ring(self._configuration.keys)
        self._make_batches(keys)
        pages = StandardPages(mesh.view, self._metrics.exposition, int(time.time()))
        routes = pages.routes().merged(AdminRoutes(self._status, self).routes()).merged(self._doctor.routes())
        routes = self._routes = routes.merged(BatchPages(self._batch_door).routes())
        self._http = HttpServer(self._runner, keys, routes, self._http_settings(), self._metrics, boottime_s)
        configuration = self._configuration
        open_here = is_loopback(configuration.grpc) and not configuration.key_on_loopback
        owner_of = None if open_here else keys.user_of
        self._grpc = GrpcDoor(configuration.grpc, self._runner, self._status, owner_of, self._batch_door)

    def _make_batches(self, keys: KeyRing) -> None:
        configuration, identity, mesh = self._configuration, self._identity, self._mesh
        settings = BatchSettings(
            storage_bytes_max=configuration.batch_storage_bytes,
            file_bytes_max=configuration.batch_file_bytes,
            kept_s=configuration.batch_keep_days * DAY_S,
        )
        folder = identity.state_dir / BATCH_FOLDER
        self._library = BatchLibrary(folder, identity.node_id, settings, time.time)
        self._batch_runner = BatchRunner(self._library, self._runner, mesh.view)
        self._batch_door = BatchDoor(self._library, self._batch_runner, mesh, configuration.name)
        self._batch_peers = PeerPort(self._batch_door.handle_peer, keys.user_of, self._node.open)
        mesh.serve_requests(self._batch_peers.open)
        self._metrics.registry.register(BatchCollector(self._batch_runner))

    def _http_settings(self) -> HttpSettings:
        configuration = self._configuration
        host, port = split_address(configuration.http)
        whole = HttpSettings(
            host=host,
            port=port,
            unix_path=str(configuration.control_socket),
            cors_origins=configuration.cors_origins,
            trusted_hosts=configuration.trusted_hosts,
            key_on_loopback=configuration.key_on_loopback,
            shares=int(configuration.gateway_processes > 1),
        )
        return in_shares(whole, configuration.gateway_processes)

    def _of_process(self, number: int) -> bytes:
        """What a further gateway process is told at its start."""
        http = replace(self._http_settings(), port=self._http.port)
        return process_settings(self._configuration, self._identity.node_id, number, http, self._routes)

    def _make_discovery(self) -> None:
        self._discovery: Discovery | None = None
        self._pool_name: PoolName | None = None
        configuration = self._configuration
        if not configuration.mdns:
            return
        settings = DiscoverySettings(
            loopback_only=is_loopback(configuration.link),
            listen_host=listen_ip(configuration.link),
            advertised_hosts=ip_addresses(configuration.advertise),
        )
        self._discovery = Discovery(self._advertisement(), self._hinted, self._monitor, settings)
        if not is_loopback(configuration.http):
            where = listen_ip(configuration.http)
            self._pool_name = PoolName(self._identity.pool_name, self._monitor, listen_host=where)

    # --- started ------------------------------------------------------------------------------------------------------

    async def start(self, progress: Callable[[str, str], None]) -> None:
        """Returns once every address answers; models go on loading. Raises UserError where that cannot be."""
        await self._start_mesh()
        self._scheduler.start()
        self._guard("node", self._node.start(lambda text: log.info("engine: %s", text)))
        await self._library.open()
        await self._start_edges()
        await self._batch_runner.start()
        if self._processes is not None:
            await self._processes.start()
        self._monitor.start()
        self._monitor.subscribe(lambda _: self._addresses_changed())
        self._addresses_changed()
        self._start_enrolment()
        if self._discovery is not None:
            self._discovery.start()
        if self._pool_name is not None:
            self._pool_name.publish()
        self._loop_lag.start()
        progress("started", f"in pool {self._identity.pool_name}")

    async def _start_mesh(self) -> None:
        await self._mesh.start()
        self._mesh.publish(self._node.load())
        try:
            await self._transport.start()
        except ListenError as error:
            raise UserError(str(error)) from None
        self._set_facts(data_port=self._transport.data_port)
        self._mesh.hint(self._identity.peer_hints, FROM_PERSON)
        for peer in self._configuration.peers:
            self._mesh.hint((peer,), FROM_PERSON)

    async def _start_edges(self) -> None:
        try:
            if self._processes is not None:
                await refuse_shared(*split_address(self._configuration.http))
            await self._http.start()
        except OSError as error:
            where = self._configuration.http
            text = f"cannot listen on {where} for HTTP: {error.strerror or error}"
            raise UserError(text, "choose another address: --http HOST:PORT (port 0: any free one)") from None
        try:
            await self._grpc.start()
        except OSError as error:
            raise UserError(str(error)) from None

    def _start_enrolment(self) -> None:
        if not self._identity.keeper:
            return
        host, port = split_address(self._configuration.enrol)
        self._enrolment = EnrolmentPort(self._identity, host, port, self._link_addresses)
        self._guard("enrolment", self._enrolment.run())

    def _guard(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run in the background; a crash is our own bug and ends the agent loudly."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._background_ended)

    def _background_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.critical("component %s crashed; the agent ends", task.get_name(), exc_info=task.exception())
            self.crashed = True
            self._ask_to_end(0.0)

    # --- while running ------------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> Addresses:
        """After `start`."""
        configuration = self._configuration
        return Addresses(
            http=_with_port(configuration.http, self._http.port),
            grpc=_with_port(configuration.grpc, self._grpc.port),
            link=_with_port(configuration.link, self._transport.port),
        )

    def model_loads(self) -> tuple[ModelLoad, ...]:
        """What this machine's engines are doing."""
        return self._node.load().models

    def _load_changed(self, load: NodeLoad) -> None:
        self._mesh.publish(load)
        if self._discovery is not None:
            self._discovery.advertise(self._advertisement())

    def _hinted(self, addresses: tuple[str, ...], claimed: Any, advertisement: object) -> None:
        self._mesh.hint(addresses, FROM_MDNS, claimed)

    def _advertisement(self) -> Any:
        configuration = self._configuration
        http_port = 0 if is_loopback(configuration.http) else self._http.port
        grpc_port = 0 if is_loopback(configuration.grpc) else self._grpc.port
        return advertisement_of(
            self._identity.pool_id, self._facts, self._node.load(), self._transport.port, http_port, grpc_port
        )

    def _link_addresses(self) -> tuple[str, ...]:
        configuration = self._configuration
        return reachable(configuration.link, self._transport.port, configuration.advertise, self._monitor.current)

    def _addresses_changed(self) -> None:
        """At start and whenever an interface comes, goes or changes."""
        configuration = self._configuration
        gateway: tuple[str, ...] = ()
        if not is_loopback(configuration.http):
            gateway = reachable(configuration.http, self._http.port, configuration.advertise, self._monitor.current)
        self._set_facts(link_addresses=self._link_addresses(), gateway_addresses=gateway)
        if self._discovery is not None:
            self._discovery.advertise(self._advertisement())

    def _set_facts(self, **changed: Any) -> None:
        self._facts = replace(self._facts, **changed, facts_version=self._facts.facts_version + 1)
        self._mesh.set_facts(self._facts)

    # --- covey.admin.Controls -----------------------------------------------------------------------------------------

    def drain(self, draining: bool, grace_s: float | None) -> None:
        """Of this machine's engines; its gateway goes on passing requests to others."""
        self._node.drain(draining, self._configuration.grace_s if grace_s is None else grace_s)

    def shut_down(self, grace_s: float | None) -> None:
        self._ask_to_end(grace_s)

    async def invite(self, valid_minutes: float | None) -> Mapping[str, Any]:
        """Returns once the token can be used. Raises UserError where this machine does not hold the pool's CA key."""
        configuration = self._configuration
        _, port = split_address(configuration.enrol)
        where = reachable(configuration.enrol, port, configuration.advertise, self._monitor.current)
        made = invitation(self._identity, where, valid_minutes)
        if self._enrolment is not None:
            await self._enrolment.check()
            if not self._enrolment.is_open:
                raise UserError(
                    f"cannot listen on {configuration.enrol} for machines that join", "set --enrol HOST:PORT"
                )
        return made

    async def revoke_invitations(self) -> None:
        """Also closes the enrolment port. Raises UserError where this machine does not hold the pool's CA key."""
        revoke_invitations(self._identity)
        if self._enrolment is not None:
            await self._enrolment.check()

    # --- stopped ------------------------------------------------------------------------------------------------------

    async def stop(self, grace_s: float) -> None:
        """Finish requests for `grace_s`, hand over leadership, say goodbye, end the engines. Safe to call twice."""
        if self._stopped:
            return
        self._stopped = True
        await self._leave_sight()
        await asyncio.gather(
            self._batch_runner.stop(grace_s),
            self._http.drain(grace_s),
            self._grpc.stop(grace_s),
            self._node.stop(grace_s),
            *([self._processes.stop(grace_s)] if self._processes is not None else []),
        )
        await self._batch_peers.stop()
        await self._library.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._scheduler.stop()
        await self._doctor.stop()
        await self._mesh.stop()
        await self._transport.close()
        await self._monitor.stop()
        self._loop_lag.stop()
        self._disk.close()

    async def _leave_sight(self) -> None:
        """Nobody new is sent here from now on."""
        self._node.drain(True)
        await self._grpc.set_serving(False)
        if self._pool_name is not None:
            await self._pool_name.stop()
        if self._discovery is not None:
            await self._discovery.stop()


def _with_port(listen: str, port: int) -> str:
    """The address with the port that was really taken."""
    return host_port(split_address(listen)[0], port)
