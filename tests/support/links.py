"""Two or more transports on loopback, with fresh identities of one pool, and recorders of what they report."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from covey_mesh.core.exchange import Failure, ForwardedRequest, PiecewiseSink, ResponseSink
from covey_mesh.core.facts import NodeFacts
from covey_mesh.core.limits import PROTOCOL_VERSION
from covey_mesh.core.messages import ControlMessage
from covey_mesh.core.ports import Link, LinkLoss
from covey_mesh.io import certificates
from covey_mesh.io.identity import (
    Identity,
    create_pool,
    load,
    load_authority,
    load_or_make_node_key,
    store_membership,
)
from covey_mesh.io.link import GrpcLink
from covey_mesh.io.state_files import make_directory
from covey_mesh.io.transport import GrpcTransport

WAIT_S = 20.0
"""Bound of every wait: hit only when something is broken."""


def new_pool(state_dir: Path, name: str = "office") -> Identity:
    return create_pool(state_dir, name)


def new_member(state_dir: Path, keeper: Identity) -> Identity:
    """What enrolment comes to, without the network."""
    make_directory(state_dir)
    key = load_or_make_node_key(state_dir)
    ca_key, authority = load_authority(keeper.state_dir)
    certificate = certificates.sign_node(ca_key, authority, key.public_key(), time.time())
    authority_pem, certificate_pem = certificates.cert_to_pem(authority), certificates.cert_to_pem(certificate)
    store_membership(state_dir, keeper.pool_name, authority_pem, certificate_pem, ())
    return load(state_dir)


def facts_of(identity: Identity, incarnation: int = 1) -> NodeFacts:
    return NodeFacts(identity.node_id, "test", "0", PROTOCOL_VERSION, incarnation)


class Recorder:
    """LinkEvents that remembers, and lets a test wait for a condition."""

    def __init__(self) -> None:
        self.links: list[Link] = []
        self.losses: list[LinkLoss] = []
        self.messages: list[ControlMessage] = []
        self.failures: list[tuple[str, LinkLoss, str]] = []
        self.heard_count = 0
        self._changed = asyncio.Event()

    def up(self, link: Link) -> None:
        self.links.append(link)
        self._changed.set()

    def down(self, link: Link, loss: LinkLoss) -> None:
        self.losses.append(loss)
        self._changed.set()

    def message(self, link: Link, message: ControlMessage) -> None:
        self.messages.append(message)
        self._changed.set()

    def dial_failed(self, address: str, loss: LinkLoss, detail: str) -> None:
        self.failures.append((address, loss, detail))
        self._changed.set()

    def heard(self, link: Link) -> None:
        self.heard_count += 1
        self._changed.set()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Answer(PiecewiseSink):
    """ResponseSink that collects one answer."""

    def __init__(self) -> None:
        self.status = 0
        self.chunks: list[bytes] = []
        self.failure: Failure | None = None
        self.ends = 0
        self.done = asyncio.Event()
        self.progressed = asyncio.Event()

    def head(self, status: int, content_type: str, retry_after_s: int = 0) -> None:
        self.status = status
        self.progressed.set()

    def data(self, chunk: bytes) -> None:
        self.chunks.append(chunk)
        self.progressed.set()

    def end(self, failure: Failure | None) -> None:
        self.failure = failure
        self.ends += 1
        self.done.set()

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    async def wait(self) -> Answer:
        async with asyncio.timeout(WAIT_S):
            await self.done.wait()
        return self


class Source:
    """A node's stand-in: writes `chunks` as fast as it is allowed to, and knows whether it was cancelled or paused."""

    def __init__(self, request: ForwardedRequest, sink: ResponseSink, chunks: list[bytes], ends: bool = True) -> None:
        self.request = request
        self.sink = sink
        self.cancelled = False
        self.pauses = 0
        self.sent_bytes = 0
        self._chunks = list(reversed(chunks))
        self._ends = ends
        self._paused = False
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._begin)

    def cancel(self) -> None:
        self.cancelled = True

    def pause(self) -> None:
        self._paused = True
        self.pauses += 1

    def resume(self) -> None:
        self._paused = False
        self._loop.call_soon(self._step)

    def _begin(self) -> None:
        if not self.cancelled:
            self.sink.head(200, "text/event-stream")
            self._step()

    def _step(self) -> None:
        if self.cancelled or self._paused:
            return
        if self._chunks:
            chunk = self._chunks.pop()
            self.sent_bytes += len(chunk)
            self.sink.data(chunk)
            self._loop.call_soon(self._step)
        elif self._ends:
            self._ends = False
            self.sink.end(None)


class Node:
    """Serves requests with sources; by default each echoes its body."""

    def __init__(self, chunks_of: Callable[[ForwardedRequest], list[bytes]] | None = None, ends: bool = True) -> None:
        self.sources: list[Source] = []
        self.opened = asyncio.Event()
        self._chunks_of = chunks_of or (lambda request: [request.body])
        self._ends = ends

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Source:
        source = Source(request, sink, self._chunks_of(request), self._ends)
        self.sources.append(source)
        self.opened.set()
        return source


def request(body: bytes = b"{}", number: int = 0) -> ForwardedRequest:
    return ForwardedRequest(f"request-{number}", 1, "demo", "/v1/completions", body, True, 10, 10)


class Machine:
    """One transport, started."""

    def __init__(self, identity: Identity, node: Node | None = None, data_port: int | None = 0) -> None:
        self.identity = identity
        self.events = Recorder()
        self.node = node or Node()
        self.revoked: set[str] = set()
        self.transport = GrpcTransport(
            identity, self.events, "127.0.0.1:0", facts_of(identity), lambda node_id: node_id in self.revoked, data_port
        )
        self.transport.serve_requests(self.node.open)

    async def start(self) -> None:
        await self.transport.start()
        self.transport.set_facts(self.facts)

    @property
    def facts(self) -> NodeFacts:
        return replace(facts_of(self.identity), data_port=self.transport.data_port)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.transport.port}"

    @property
    def link(self) -> Link:
        return self.events.links[-1]

    @property
    def grpc_link(self) -> GrpcLink:
        found = self.link
        assert isinstance(found, GrpcLink)
        return found


async def connect(dialing: Machine, listening: Machine) -> tuple[Link, Link]:
    """Both ends of a new link."""
    ups = len(listening.events.links)
    dialing.transport.dial(listening.address, listening.identity.node_id)
    links = len(dialing.events.links)
    await dialing.events.until(lambda: len(dialing.events.links) > links or dialing.events.failures)
    assert not dialing.events.failures, dialing.events.failures
    await listening.events.until(lambda: len(listening.events.links) > ups)
    near, far = dialing.grpc_link, listening.grpc_link
    if near.data_ticket and near.facts.data_port:
        await polled(lambda: near.on_data_channel and far.on_data_channel)
    return near, far


async def polled(condition: Callable[[], object]) -> None:
    """For what no recorder hears of."""
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < WAIT_S, "did not happen"
        await asyncio.sleep(0.001)
