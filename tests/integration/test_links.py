"""Real links on loopback: real certificates, real sockets; each test over gRPC alone and with a data channel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from tests.support.links import (
    WAIT_S,
    Answer,
    Machine,
    Node,
    Recorder,
    connect,
    facts_of,
    new_member,
    new_pool,
    polled,
    request,
)

from covey_mesh.core.exchange import FailureCode
from covey_mesh.core.limits import LINK_BACKLOG_BYTES_MAX, STREAM_WINDOW_BYTES
from covey_mesh.core.messages import Heartbeat, LoadReport, NodeLoad
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import LinkLoss
from covey_mesh.io.accepting import LINKS_PER_PEER_MAX
from covey_mesh.io.certificates import dns_name
from covey_mesh.io.hello import hello_bytes
from covey_mesh.io.identity import Identity
from covey_mesh.io.tls_probe import Listener
from covey_mesh.io.transport import GrpcTransport, ListenError
from covey_mesh.wire.v1.link_pb2 import Batch, Item, RequestCancel

METHOD = "/covey.v1.Link/Exchange"


class Pair:
    """Two machines of one pool; `near` dials `far`."""

    def __init__(self, near: Machine, far: Machine) -> None:
        self.near = near
        self.far = far


@pytest.fixture
def identities(tmp_path: Path) -> tuple[Identity, Identity]:
    keeper = new_pool(tmp_path / "keeper")
    return keeper, new_member(tmp_path / "member", keeper)


@pytest.fixture(params=[None, 0], ids=["grpc", "data"])
def data_port(request: pytest.FixtureRequest) -> int | None:
    """None: links stay on gRPC."""
    port: int | None = request.param
    return port


@pytest_asyncio.fixture
async def pair(identities: tuple[Identity, Identity], data_port: int | None) -> AsyncIterator[Pair]:
    near, far = Machine(identities[0], data_port=data_port), Machine(identities[1], data_port=data_port)
    await near.start()
    await far.start()
    yield Pair(near, far)
    await near.transport.close()
    await far.transport.close()


@pytest.mark.asyncio
async def test_messages_both_ways_in_order(pair: Pair) -> None:
    near, far = await connect(pair.near, pair.far)
    assert (near.peer, far.peer) == (pair.far.identity.node_id, pair.near.identity.node_id)
    assert (near.dialed, far.dialed) == (True, False)
    assert near.address == pair.far.address
    assert far.address == "127.0.0.1"
    assert near.facts == pair.far.facts
    for number in range(1, 501):
        near.send(Heartbeat(token=number))
        far.send(Heartbeat(echo=number))
    await pair.far.events.until(lambda: len(pair.far.events.messages) == 500)
    await pair.near.events.until(lambda: len(pair.near.events.messages) == 500)
    assert pair.far.events.messages == [Heartbeat(token=n) for n in range(1, 501)]
    assert pair.near.events.messages == [Heartbeat(echo=n) for n in range(1, 501)]
    assert pair.far.events.heard_count < 50, "items queued in one turn leave as one batch"


@pytest.mark.asyncio
async def test_an_address_without_an_expected_id_is_told_by_its_certificate(pair: Pair) -> None:
    pair.near.transport.dial(pair.far.address, None)
    await pair.near.events.until(lambda: pair.near.events.links)
    assert pair.near.link.peer == pair.far.identity.node_id


@pytest.mark.asyncio
async def test_200_attempts_at_once_keep_apart(pair: Pair) -> None:
    near, far = await connect(pair.near, pair.far)
    bodies = [bytes([n % 256]) * (n * 97 % 5000 + 1) for n in range(200)]
    answers = [Answer() for _ in bodies]
    for number, (body, answer) in enumerate(zip(bodies, answers, strict=True)):
        near.open(request(body, number), answer)
    await asyncio.gather(*(answer.wait() for answer in answers))
    assert [answer.body for answer in answers] == bodies
    assert all(answer.failure is None and answer.ends == 1 and answer.status == 200 for answer in answers)
    assert near.attempts == far.attempts == (0, 0)


@pytest.mark.asyncio
async def test_attempts_may_be_opened_from_the_accepting_side(pair: Pair) -> None:
    _, far = await connect(pair.near, pair.far)
    answer = Answer()
    far.open(request(b"from the other side"), answer)
    assert (await answer.wait()).body == b"from the other side"
    assert pair.near.node.sources[0].request == request(b"from the other side")


@pytest.mark.asyncio
async def test_cancel_stops_one_attempt_and_no_other(pair: Pair) -> None:
    pair.far.node._ends = False
    near, _ = await connect(pair.near, pair.far)
    first, second = Answer(), Answer()
    upstream = near.open(request(b"one", 1), first)
    near.open(request(b"two", 2), second)
    async with asyncio.timeout(WAIT_S):
        await first.progressed.wait()
        await second.progressed.wait()
    upstream.cancel()
    upstream.cancel()
    near.send(Heartbeat(token=1))
    await pair.far.events.until(lambda: pair.far.events.messages)
    one, two = pair.far.node.sources
    assert (one.cancelled, two.cancelled) == (True, False)
    two.sink.data(b" more")
    two.sink.end(None)
    one.sink.data(b"nobody reads this")
    one.sink.end(None)
    assert (await second.wait()).body == b"two more"
    assert first.ends == 0


@pytest.mark.asyncio
async def test_a_failed_attempt_carries_its_reason(pair: Pair) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("a bug of the node")

    pair.far.transport.serve_requests(refuse)  # type: ignore[arg-type]
    near, _ = await connect(pair.near, pair.far)
    answer = Answer()
    near.open(request(), answer)
    assert answer.ends == 0, "never from inside open"
    failure = (await answer.wait()).failure
    assert failure is not None
    assert failure.code is FailureCode.INTERNAL
    pair.far.transport.serve_requests(Node().open)
    answer = Answer()
    near.open(request(b"the link lives on"), answer)
    assert (await answer.wait()).body == b"the link lives on"


@pytest.mark.asyncio
async def test_a_slow_reader_holds_bounded_memory_and_then_gets_everything(pair: Pair) -> None:
    chunks = [bytes([n % 251]) * 10_000 for n in range(300)]
    pair.far.node._chunks_of = lambda _: chunks
    near, far = await connect(pair.near, pair.far)
    slow, quick = Answer(), Answer()
    upstream = near.open(request(b"slow", 1), slow)
    upstream.pause()
    near.open(request(b"quick", 2), quick)
    assert (await quick.wait()).body == b"".join(chunks)
    source = pair.far.node.sources[0]
    assert source.pauses == 1
    assert len(slow.body) <= STREAM_WINDOW_BYTES
    assert source.sent_bytes <= 2 * STREAM_WINDOW_BYTES
    upstream.resume()
    assert (await slow.wait()).body == b"".join(chunks)
    assert far.waiting_bytes == 0


@pytest.mark.asyncio
async def test_heartbeats_overtake_a_large_body(pair: Pair) -> None:
    near, _ = await connect(pair.near, pair.far)
    body = os.urandom(20 * 1024 * 1024)
    answer = Answer()
    upstream = near.open(request(body), answer)
    await pair.far.events.until(lambda: pair.far.events.heard_count >= 3)
    before = pair.far.events.heard_count
    near.send(Heartbeat(token=7))
    await pair.far.events.until(lambda: pair.far.events.messages)
    assert pair.far.events.heard_count - before <= 12, "waited for a few batches, not for eighty"
    assert not pair.far.node.sources, "the body was still on its way"
    assert (await answer.wait()).body == body
    assert pair.far.node.sources[0].request.body == body
    upstream.cancel()
    assert answer.ends == 1


@pytest.mark.asyncio
async def test_large_bodies_beyond_the_bound_are_refused_alone(pair: Pair) -> None:
    near, _ = await connect(pair.near, pair.far)
    size = LINK_BACKLOG_BYTES_MAX // 2 - 1024
    answers = [Answer() for _ in range(3)]
    upstreams = [near.open(request(bytes(size), number), answer) for number, answer in enumerate(answers)]
    failure = (await answers[2].wait()).failure
    assert failure is not None
    assert failure.code is FailureCode.RESOURCE_EXHAUSTED
    for upstream in upstreams:
        upstream.cancel()
    answer = Answer()
    near.open(request(b"after it"), answer)
    assert (await answer.wait()).body == b"after it"


@pytest.mark.asyncio
async def test_closing_tells_the_peer_that_it_was_on_purpose(pair: Pair) -> None:
    near, far = await connect(pair.near, pair.far)
    near.close(LinkLoss.REPLACED)
    near.send(Heartbeat(token=1))
    await pair.near.events.until(lambda: pair.near.events.losses)
    await pair.far.events.until(lambda: pair.far.events.losses)
    assert pair.near.events.losses == pair.far.events.losses == [LinkLoss.REPLACED]
    near, far = await connect(pair.near, pair.far)
    far.close(LinkLoss.CLOSED)
    await pair.near.events.until(lambda: len(pair.near.events.losses) == 2)
    assert pair.near.events.losses[1] is LinkLoss.CLOSED
    assert pair.far.events.messages == []


@pytest.mark.asyncio
async def test_a_lost_link_ends_every_attempt_on_it(pair: Pair) -> None:
    pair.far.node._ends = False
    near, _ = await connect(pair.near, pair.far)
    answers = [Answer() for _ in range(5)]
    for number, answer in enumerate(answers):
        near.open(request(b"x", number), answer)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(*(answer.progressed.wait() for answer in answers))
    near.close(LinkLoss.SILENT)
    for answer in answers:
        await answer.wait()
        assert answer.failure is not None
        assert answer.failure.code is FailureCode.LINK_LOST
    await pair.far.events.until(lambda: pair.far.events.losses)
    assert all(source.cancelled for source in pair.far.node.sources)
    late = Answer()
    near.open(request(), late)
    failure = (await late.wait()).failure
    assert failure is not None
    assert failure.code is FailureCode.LINK_LOST


@pytest.mark.asyncio
async def test_a_machine_of_another_pool_is_untrusted_by_both_sides(pair: Pair, tmp_path: Path) -> None:
    stranger = Machine(new_pool(tmp_path / "other", "office"))
    await stranger.transport.start()
    try:
        stranger.transport.dial(pair.far.address, pair.far.identity.node_id)
        pair.near.transport.dial(stranger.address, None)
        await stranger.events.until(lambda: stranger.events.failures)
        await pair.near.events.until(lambda: pair.near.events.failures)
        assert stranger.events.failures[0][1] is LinkLoss.UNTRUSTED
        assert pair.near.events.failures[0][1] is LinkLoss.UNTRUSTED
        assert not pair.far.events.links
    finally:
        await stranger.transport.close()


@pytest.mark.asyncio
async def test_another_machine_of_the_pool_is_not_the_expected_one(pair: Pair) -> None:
    pair.near.transport.dial(pair.far.address, NodeId("0" * 32))
    await pair.near.events.until(lambda: pair.near.events.failures)
    _, loss, detail = pair.near.events.failures[0]
    assert loss is LinkLoss.UNTRUSTED
    assert "not 00000000" in detail
    assert not pair.far.events.links


@pytest.mark.asyncio
async def test_dialing_oneself_is_noticed(pair: Pair) -> None:
    pair.near.transport.dial(pair.near.address, None)
    await pair.near.events.until(lambda: pair.near.events.failures)
    assert pair.near.events.failures == [(pair.near.address, LinkLoss.UNTRUSTED, "this is myself")]


def _channel(pair: Pair, own: Identity, with_certificate: bool = True) -> grpc.aio.Channel:
    """A hand-made client: what covey's own would not do."""
    credentials = grpc.ssl_channel_credentials(
        own.ca_certificate_pem,
        own.key_pem if with_certificate else None,
        own.certificate_pem if with_certificate else None,
    )
    options = [("grpc.ssl_target_name_override", dns_name(pair.far.identity.node_id))]
    return grpc.aio.secure_channel(pair.far.address, credentials, options=options)


async def _status(channel: grpc.aio.Channel, method: str, *batches: bytes) -> grpc.StatusCode:
    """How the far side ends a call that sends these bytes."""
    call = channel.stream_stream(method)()
    try:
        async with asyncio.timeout(WAIT_S):
            try:
                for batch in batches:
                    await call.write(batch)
                while await call.read() is not grpc.aio.EOF:
                    pass
            except (grpc.RpcError, asyncio.InvalidStateError):
                pass
            return await call.code()
    finally:
        await channel.close()


@pytest.mark.asyncio
async def test_without_a_certificate_there_is_nothing(pair: Pair) -> None:
    channel = _channel(pair, pair.near.identity, with_certificate=False)
    assert await _status(channel, METHOD, b"") is grpc.StatusCode.UNAVAILABLE
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.far.transport.port, ssl=context)
        with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.transport.abort()
    assert not pair.far.events.links


@pytest.mark.asyncio
async def test_raw_tcp_gets_no_byte(pair: Pair) -> None:
    async with asyncio.timeout(WAIT_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", pair.far.transport.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert b"HTTP" not in await reader.read()
        writer.transport.abort()
    assert not pair.far.events.links


@pytest.mark.asyncio
async def test_a_peer_that_breaks_the_protocol_is_dropped(pair: Pair) -> None:
    own = pair.near.identity
    hello = hello_bytes(own.pool_id, facts_of(own))
    stolen = hello_bytes(own.pool_id, facts_of(pair.far.identity))
    elsewhere = hello_bytes(own.node_id, facts_of(own))  # type: ignore[arg-type]
    no_hello = Batch(items=[Item(cancel=RequestCancel(stream_id=1))]).SerializeToString()
    denied, precondition = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION
    assert await _status(_channel(pair, own), METHOD, b"\xff garbage") is precondition
    assert await _status(_channel(pair, own), METHOD, no_hello) is precondition
    assert await _status(_channel(pair, own), METHOD, stolen) is denied
    assert await _status(_channel(pair, own), METHOD, elsewhere) is denied
    assert await _status(_channel(pair, own), "/covey.v1.Pool/GetPool", b"") is grpc.StatusCode.UNIMPLEMENTED
    assert not pair.far.events.links
    await _status(_channel(pair, own), METHOD, hello, b"\xff garbage")
    await pair.far.events.until(lambda: pair.far.events.losses)
    assert pair.far.events.losses == [LinkLoss.PROTOCOL]


@pytest.mark.asyncio
async def test_a_machine_speaks_of_its_own_load_only(pair: Pair) -> None:
    near, _ = await connect(pair.near, pair.far)
    near.send(LoadReport(NodeLoad(pair.far.identity.node_id, 1, 1)))
    await pair.far.events.until(lambda: pair.far.events.losses)
    assert pair.far.events.losses == [LinkLoss.PROTOCOL]
    assert pair.far.events.messages == []


@pytest.mark.asyncio
async def test_a_removed_machine_is_cut_off_and_stays_out(pair: Pair) -> None:
    await connect(pair.near, pair.far)
    pair.far.revoked.add(pair.near.identity.node_id)
    pair.far.transport.close_revoked()
    await pair.near.events.until(lambda: pair.near.events.losses)
    assert pair.far.events.losses == [LinkLoss.UNTRUSTED]
    pair.near.transport.dial(pair.far.address, None)
    await pair.near.events.until(lambda: pair.near.events.failures)
    assert pair.near.events.failures[0][1] is LinkLoss.UNTRUSTED
    pair.far.transport.dial(pair.near.address, None)
    await pair.far.events.until(lambda: pair.far.events.failures)
    assert pair.far.events.failures[0][1] is LinkLoss.UNTRUSTED


@pytest.mark.asyncio
async def test_two_transports_never_share_a_port(pair: Pair) -> None:
    second = GrpcTransport(pair.near.identity, Recorder(), pair.far.address, facts_of(pair.near.identity))
    with pytest.raises(ListenError, match="choose another"):
        await second.start()


@pytest.mark.asyncio
async def test_what_is_no_link_is_told_apart(pair: Pair) -> None:
    async def speak_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    closed = socket.create_server(("127.0.0.1", 0))
    refused_port = closed.getsockname()[1]
    closed.close()
    plain = await asyncio.start_server(speak_plainly, "127.0.0.1", 0)
    plain_port = plain.sockets[0].getsockname()[1]
    try:
        pair.near.transport.dial(f"127.0.0.1:{refused_port}", None)
        pair.near.transport.dial(f"127.0.0.1:{plain_port}", None)
        pair.near.transport.dial("no address", None)
        await pair.near.events.until(lambda: len(pair.near.events.failures) == 3)
    finally:
        plain.close()
        await plain.wait_closed()
    losses = {address: loss for address, loss, _ in pair.near.events.failures}
    assert losses == {
        f"127.0.0.1:{refused_port}": LinkLoss.REFUSED,
        f"127.0.0.1:{plain_port}": LinkLoss.UNTRUSTED,
        "no address": LinkLoss.UNTRUSTED,
    }


OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
from covey_mesh.io.identity import load
from tests.support.links import Machine, Node

async def main():
    machine = Machine(load(Path(sys.argv[1])), Node(ends=False), None if sys.argv[2] == "None" else 0)
    await machine.start()
    print(machine.transport.port, flush=True)
    for address in sys.argv[3:]:
        machine.transport.dial(address, None)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.asyncio
@pytest.mark.parametrize(("stop", "loss"), [(signal.SIGKILL, LinkLoss.RESET), (signal.SIGSTOP, LinkLoss.SILENT)])
async def test_a_dead_or_frozen_process_is_noticed(
    identities: tuple[Identity, Identity], stop: signal.Signals, loss: LinkLoss, data_port: int | None
) -> None:
    near = Machine(identities[0], data_port=data_port)
    await near.start()
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_PROCESS, str(identities[1].state_dir), str(data_port),
        stdout=asyncio.subprocess.PIPE, cwd=root,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            address = f"127.0.0.1:{int(await process.stdout.readline())}"
        near.transport.dial(address, identities[1].node_id)
        await near.events.until(lambda: near.events.links or near.events.failures)
        await polled(lambda: data_port is None or near.grpc_link.on_data_channel)
        answer = Answer()
        near.link.open(request(b"half an answer"), answer)
        async with asyncio.timeout(WAIT_S):
            await answer.progressed.wait()
        process.send_signal(stop)
        await near.events.until(lambda: near.events.losses)
        assert near.events.losses == [loss]
        failure = (await answer.wait()).failure
        assert failure is not None
        assert failure.code is FailureCode.LINK_LOST
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        near.transport.dial(address, None)
        await near.events.until(lambda: near.events.failures)
        assert near.events.failures[0][1] is LinkLoss.REFUSED
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await near.transport.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_dead_or_frozen_dialer_is_noticed_by_who_accepted_it(
    identities: tuple[Identity, Identity], stop: signal.Signals, data_port: int | None
) -> None:
    near = Machine(identities[0], data_port=data_port)
    await near.start()
    root, state_dir = Path(__file__).parents[2], str(identities[1].state_dir)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OTHER_PROCESS, state_dir, str(data_port), near.address,
        stdout=asyncio.subprocess.PIPE, cwd=root,
    )  # fmt: skip
    try:
        await near.events.until(lambda: near.events.links)
        await polled(lambda: data_port is None or near.grpc_link.on_data_channel)
        answer = Answer()
        near.link.open(request(b"half an answer"), answer)
        async with asyncio.timeout(WAIT_S):
            await answer.progressed.wait()
        process.send_signal(stop)
        await near.events.until(lambda: near.events.losses)
        assert near.events.losses[0] in (LinkLoss.RESET, LinkLoss.SILENT)
        assert stop is signal.SIGKILL or near.events.losses == [LinkLoss.SILENT]
        assert (await answer.wait()).failure is not None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await near.transport.close()


@pytest.mark.asyncio
async def test_tls_itself_demands_the_machine_that_the_probe_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the address led elsewhere between the probe and the dial."""

    async def found_another(*_: object) -> Listener:
        return Listener(NodeId("0" * 32), f"ipv4:{pair.far.address}", "127.0.0.1")

    monkeypatch.setattr(pair.near.transport._dialer, "_find", found_another)
    pair.near.transport.dial(pair.far.address, None)
    await pair.near.events.until(lambda: pair.near.events.failures)
    assert pair.near.events.failures[0][1] is LinkLoss.UNTRUSTED
    assert not pair.far.events.links


@pytest.mark.asyncio
async def test_a_repeated_fault_is_logged_once(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        await _status(_channel(pair, pair.near.identity), METHOD, b"\xff garbage")
    assert [record.message for record in caplog.records] == ["link refused"]


@pytest.mark.asyncio
async def test_a_machine_holds_a_bounded_number_of_links(pair: Pair) -> None:
    for _ in range(LINKS_PER_PEER_MAX):
        await connect(pair.near, pair.far)
    pair.near.transport.dial(pair.far.address, None)
    await pair.near.events.until(lambda: pair.near.events.failures)
    assert "open already" in pair.near.events.failures[0][2]


@pytest.mark.asyncio
async def test_links_asked_for_at_the_same_moment_are_bounded_too(pair: Pair) -> None:
    asked = 3 * LINKS_PER_PEER_MAX
    for _ in range(asked):
        pair.near.transport.dial(pair.far.address, None)
    await pair.near.events.until(lambda: len(pair.near.events.failures) + len(pair.near.events.links) >= asked)
    await pair.near.events.until(lambda: len(pair.near.transport.links()) <= LINKS_PER_PEER_MAX)
    assert len(pair.far.transport.links()) <= LINKS_PER_PEER_MAX
