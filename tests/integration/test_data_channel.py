"""Data channels on loopback: real certificates, real TLS, and everything that must not come of one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from tests.support.links import WAIT_S, Answer, Machine, connect, new_member, new_pool, polled, request

from covey_mesh.core.exchange import FailureCode
from covey_mesh.core.framing import frame
from covey_mesh.core.limits import LINK_BACKLOG_BYTES_MAX, STREAM_WINDOW_BYTES
from covey_mesh.core.messages import Heartbeat, Query
from covey_mesh.core.ports import LinkLoss
from covey_mesh.io import data_accepting, data_dialing
from covey_mesh.io.data_stream import DATA_PROTOCOL, EARLY_BYTES_MAX, DataStream
from covey_mesh.io.hello import TICKET_BYTES
from covey_mesh.io.identity import Identity, load
from covey_mesh.io.link import GrpcLink
from covey_mesh.io.tls_probe import client_context
from covey_mesh.wire.v1.link_pb2 import Batch, Item, Moved, ResponseChunks

UNEVEN = Batch(items=[Item(chunks=ResponseChunks(stream_ids=[1, 2], chunks=[b"x"]))]).SerializeToString()
MOVED_AGAIN = Batch(items=[Item(moved=Moved())]).SerializeToString()


class Pair:
    """Two machines of one pool; `near` dials `far`."""

    def __init__(self, near: Machine, far: Machine, directory: Path) -> None:
        self.near, self.far, self.directory = near, far, directory

    async def stay_on_grpc(self) -> tuple[GrpcLink, GrpcLink]:
        """A link of which `far` gives a ticket, and whose data port `near` cannot find."""
        refused = socket.create_server(("127.0.0.1", 0))
        port = int(refused.getsockname()[1])
        refused.close()
        self.far.transport.set_facts(replace(self.far.facts, data_port=port))
        self.near.transport.dial(self.far.address, None)
        await self.near.events.until(lambda: self.near.events.links)
        await self.far.events.until(lambda: self.far.events.links)
        await polled(lambda: self.near.identity and self.near.transport._data_dialer._told)
        return self.near.grpc_link, self.far.grpc_link


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    keeper = new_pool(tmp_path / "keeper")
    near, far = Machine(keeper), Machine(new_member(tmp_path / "member", keeper))
    await near.start()
    await far.start()
    yield Pair(near, far, tmp_path)
    await near.transport.close()
    await far.transport.close()


async def _echoes(near: GrpcLink) -> None:
    answer = Answer()
    near.open(request(b"still there"), answer)
    assert (await answer.wait()).body == b"still there"


async def _shown(port: int, context: ssl.SSLContext, *words: bytes) -> bytes:
    """What the data port says to them until it closes."""
    async with asyncio.timeout(WAIT_S):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="covey")
        except (ssl.SSLError, ConnectionError):
            return b""
        try:
            for word in words:
                writer.write(word)
            return await reader.read()
        except (ssl.SSLError, ConnectionError):
            return b""
        finally:
            writer.transport.abort()


def _ticket(link: GrpcLink) -> bytes:
    assert len(link.data_ticket) == TICKET_BYTES
    return link.data_ticket


@pytest.mark.asyncio
async def test_messages_stay_in_order_while_the_link_moves(pair: Pair) -> None:
    near_sent = far_sent = 0
    pair.near.transport.dial(pair.far.address, None)
    await pair.near.events.until(lambda: pair.near.events.links)
    await pair.far.events.until(lambda: pair.far.events.links)
    near, far = pair.near.grpc_link, pair.far.grpc_link
    rest = 0
    while rest < 200:
        near_sent, far_sent = near_sent + 1, far_sent + 1
        near.send(Heartbeat(token=near_sent))
        far.send(Heartbeat(token=far_sent))
        rest += near.on_data_channel and far.on_data_channel
        await asyncio.sleep(0)
    await pair.far.events.until(lambda: len(pair.far.events.messages) == near_sent)
    await pair.near.events.until(lambda: len(pair.near.events.messages) == far_sent)
    assert pair.far.events.messages == [Heartbeat(token=n) for n in range(1, near_sent + 1)]
    assert pair.near.events.messages == [Heartbeat(token=n) for n in range(1, far_sent + 1)]


@pytest.mark.asyncio
async def test_the_end_of_the_channel_alone_is_the_end_of_the_link(pair: Pair) -> None:
    pair.far.node._ends = False
    near, far = await connect(pair.near, pair.far)
    answers = [Answer() for _ in range(3)]
    for number, answer in enumerate(answers):
        near.open(request(b"x", number), answer)
        await asyncio.wait_for(answer.progressed.wait(), WAIT_S)
    assert far._data is not None
    far._data._connected.abort()
    for answer in answers:
        failure = (await answer.wait()).failure
        assert failure is not None
        assert failure.code is FailureCode.LINK_LOST
    await pair.far.events.until(lambda: pair.far.events.losses)
    assert pair.near.events.losses == pair.far.events.losses == [LinkLoss.RESET]
    assert all(source.cancelled for source in pair.far.node.sources)
    await polled(lambda: not pair.near.transport.links() and not pair.far.transport.links())
    pair.near.transport.dial(pair.far.address, None)
    await pair.near.events.until(lambda: len(pair.near.events.links) == 2)
    await asyncio.sleep(0.1)  # a negative: nothing would tell that it was tried
    assert pair.near.grpc_link._data is None, "something on the way may cut such connections: rest first"
    pair.far.node._ends = True
    await _echoes(pair.near.grpc_link)


@pytest.mark.asyncio
async def test_a_silent_channel_is_not_tried_again_at_once(pair: Pair) -> None:
    near, far = await connect(pair.near, pair.far)
    far.close(LinkLoss.SILENT)
    await pair.near.events.until(lambda: pair.near.events.losses)
    assert near.data_at_fault
    assert far.data_at_fault


@pytest.mark.asyncio
async def test_without_the_port_the_link_goes_on_and_moves_when_it_opens(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(data_dialing, "RETRY_S", 0.01)
    near, _ = await pair.stay_on_grpc()
    await _echoes(near)
    await asyncio.sleep(0.05)  # several more tries
    assert [record.message[:15] for record in caplog.records] == ["no data channel"], "said once"
    near._facts = pair.far.facts
    await polled(lambda: near.on_data_channel)
    await _echoes(near)


@pytest.mark.asyncio
async def test_a_peer_that_gives_no_ticket_is_left_on_grpc(tmp_path: Path) -> None:
    keeper = new_pool(tmp_path / "keeper")
    near, old = Machine(keeper), Machine(new_member(tmp_path / "member", keeper), data_port=None)
    await near.start()
    await old.start()
    try:
        for dialing, listening in ((near, old), (old, near)):
            link, _ = await connect(dialing, listening) if dialing is near else (await _dialed(old, near), None)
            await _echoes(link)
            assert (dialing is old) == bool(link.data_ticket)
    finally:
        await near.transport.close()
        await old.transport.close()


async def _dialed(dialing: Machine, listening: Machine) -> GrpcLink:
    ups = len(dialing.events.links)
    dialing.transport.dial(listening.address, None)
    await dialing.events.until(lambda: len(dialing.events.links) > ups)
    return dialing.grpc_link


@pytest.mark.asyncio
async def test_strangers_get_no_byte(pair: Pair, tmp_path: Path) -> None:
    _, far = await pair.stay_on_grpc()
    port, ticket = pair.far.transport.data_port, _ticket(far)
    other_pool = client_context(new_pool(tmp_path / "other"), DATA_PROTOCOL)
    other_pool.verify_mode = ssl.CERT_NONE
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.check_hostname, nobody.verify_mode = False, ssl.CERT_NONE
    nobody.set_alpn_protocols([DATA_PROTOCOL])
    another_protocol = client_context(pair.near.identity)
    for context in (other_pool, nobody, another_protocol):
        assert await _shown(port, context, ticket) == b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(WAIT_S):
        assert b"HTTP" not in await reader.read()
    writer.transport.abort()
    assert far._data is None


@pytest.mark.asyncio
async def test_a_ticket_is_good_for_its_own_machine_only(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_accepting, "ADMIT_TIMEOUT_S", 0.3)
    _, far = await pair.stay_on_grpc()
    third = new_member(pair.directory / "third", pair.near.identity)
    assert await _shown(pair.far.transport.data_port, client_context(third, DATA_PROTOCOL), _ticket(far)) == b""
    assert far._data is None


@pytest.mark.asyncio
@pytest.mark.parametrize("words", [(), (b"short",), (b"x" * TICKET_BYTES,), (b"x" * (TICKET_BYTES + 9),)])
async def test_a_member_without_a_ticket_gets_no_byte_and_holds_nothing(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, words: tuple[bytes, ...]
) -> None:
    monkeypatch.setattr(data_accepting, "ADMIT_TIMEOUT_S", 0.3)
    _, far = await pair.stay_on_grpc()
    context = client_context(pair.near.identity, DATA_PROTOCOL)
    assert await _shown(pair.far.transport.data_port, context, *words) == b""
    await polled(lambda: not pair.far.transport._data_acceptor._admitting)
    assert far._data is None


@pytest.mark.asyncio
async def test_a_removed_machine_gets_no_channel(pair: Pair) -> None:
    _, far = await pair.stay_on_grpc()
    pair.far.revoked.add(pair.near.identity.node_id)
    context = client_context(pair.near.identity, DATA_PROTOCOL)
    assert await _shown(pair.far.transport.data_port, context, _ticket(far)) == b""
    assert far._data is None


@pytest.mark.asyncio
async def test_the_dialing_side_demands_the_machine_of_its_link(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    """As if the data port were another machine's (two behind one address)."""
    third = Machine(new_member(pair.directory / "third", pair.near.identity))
    stranger = Machine(new_pool(pair.directory / "other"))
    await third.start()
    await stranger.start()
    try:
        for machine, why in ((third, "answers there"), (stranger, "not of this pool")):
            pair.far.transport.set_facts(replace(pair.far.facts, data_port=machine.transport.data_port))
            pair.near.transport._data_dialer._told.clear()
            caplog.clear()
            link = await _dialed(pair.near, pair.far)
            await polled(lambda: pair.near.transport._data_dialer._told)
            (refused,) = [record for record in caplog.records if record.message.startswith("no data channel")]
            assert why in refused.__dict__["reason"]
            assert not link.on_data_channel
            await _echoes(link)
    finally:
        await third.transport.close()
        await stranger.transport.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", b"\0\0\0\2\xff\xff", b"\0\0\0\4\x0a\x02\x8a\x01", frame(UNEVEN), frame(MOVED_AGAIN)],
    ids=["long", "no-batch", "item", "uneven", "moved-again"],
)
async def test_garbage_ends_the_link_and_is_told(pair: Pair, garbage: bytes) -> None:
    near, _ = await connect(pair.near, pair.far)
    answer = Answer()
    pair.far.node._ends = False
    near.open(request(), answer)
    await asyncio.wait_for(answer.progressed.wait(), WAIT_S)
    assert near._data is not None
    near._data._connected.write(garbage)
    await pair.far.events.until(lambda: pair.far.events.losses)
    assert pair.far.events.losses == [LinkLoss.PROTOCOL]
    assert (await answer.wait()).failure is not None


@pytest.mark.asyncio
async def test_one_answers_excess_and_one_readers_bug_touch_no_other(pair: Pair) -> None:
    pair.far.node._ends = False
    near, far = await connect(pair.near, pair.far)
    answers = [Answer() for _ in range(3)]
    for number, answer in enumerate(answers):
        near.open(request(b"x", number), answer)
        await asyncio.wait_for(answer.progressed.wait(), WAIT_S)

    def fail(_: bytes) -> None:
        raise RuntimeError("a bug of the gateway")

    answers[1].data = fail  # type: ignore[method-assign]
    packed = ResponseChunks(stream_ids=[1, 2, 3, 99], chunks=[bytes(STREAM_WINDOW_BYTES + 1), b"y", b"z", b"?"])
    assert far._data is not None
    far._data.send(Batch(items=[Item(chunks=packed)]).SerializeToString())
    failure = (await answers[0].wait()).failure
    assert failure is not None
    assert failure.code is FailureCode.INTERNAL
    pair.far.node.sources[2].sink.end(None)
    assert (await answers[2].wait()).body == b"xz"
    await polled(lambda: pair.far.node.sources[1].cancelled)
    assert near.on_data_channel


@pytest.mark.asyncio
async def test_half_a_message_and_then_the_end(pair: Pair) -> None:
    near, _ = await connect(pair.near, pair.far)
    assert near._data is not None
    near._data._connected.write(b"\0\1\0\0half of it")
    near._data._connected.close()
    await pair.far.events.until(lambda: pair.far.events.losses)
    assert pair.far.events.losses == [LinkLoss.RESET]
    assert pair.far.events.messages == []


@pytest.mark.asyncio
async def test_a_peer_that_does_not_read_is_cut_off(pair: Pair) -> None:
    near, far = await connect(pair.near, pair.far)
    assert far._data is not None
    far._data._connected.pause_reading()
    payload = bytes(4 * 1024 * 1024)
    most = 0
    for number in range(2 * LINK_BACKLOG_BYTES_MAX // len(payload)):
        near.send(Query(number, "x", payload))
        most = max(most, near.waiting_bytes)
        await asyncio.sleep(0)
    assert pair.near.events.losses == [LinkLoss.SILENT]
    assert most <= LINK_BACKLOG_BYTES_MAX + len(payload)


@pytest.mark.asyncio
async def test_a_peer_ahead_of_its_word_is_kept_waiting_within_a_bound(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, far = await pair.stay_on_grpc()
    context = client_context(pair.near.identity, DATA_PROTOCOL)
    most = 0
    keep = DataStream._keep

    def watched(stream: DataStream, data: bytes) -> None:
        nonlocal most
        keep(stream, data)
        most = max(most, len(stream._early))

    monkeypatch.setattr(DataStream, "_keep", watched)
    port = pair.far.transport.data_port
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="covey")
    with contextlib.suppress(TimeoutError, ConnectionError):
        async with asyncio.timeout(0.5):
            writer.write(_ticket(far))
            while True:
                writer.write(bytes(256 * 1024))
                await writer.drain()
    writer.transport.abort()
    del reader
    assert 0 < most <= EARLY_BYTES_MAX
    await pair.far.events.until(lambda: pair.far.events.losses)


@pytest.mark.asyncio
async def test_a_flood_of_connections_is_bounded_and_harms_no_link(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_accepting, "ADMITTING_PER_ADDRESS_MAX", 4)
    acceptor = pair.far.transport._data_acceptor
    idle = [await asyncio.open_connection("127.0.0.1", pair.far.transport.data_port) for _ in range(12)]
    try:
        await polled(lambda: sum(reader.at_eof() for reader, _ in idle) == 8)
        assert len(acceptor._admitting) == 4
        link = await _dialed(pair.near, pair.far)
        await polled(lambda: pair.near.transport._data_dialer._told)
        await _echoes(link)
    finally:
        for _, writer in idle:
            writer.transport.abort()
    await polled(lambda: not acceptor._admitting and not acceptor._hosts)


@pytest.mark.asyncio
async def test_a_renewed_certificate_serves_the_next_channel(pair: Pair) -> None:
    renewed: Identity = load(pair.far.identity.state_dir)
    pair.far.transport.replace_identity(renewed)
    pair.near.transport.replace_identity(load(pair.near.identity.state_dir))
    near, far = await connect(pair.near, pair.far)
    assert near.on_data_channel
    assert far.on_data_channel


@pytest.mark.asyncio
async def test_a_taken_port_is_replaced_by_a_free_one(pair: Pair) -> None:
    taken = pair.far.transport.data_port
    third = Machine(new_member(pair.directory / "third", pair.near.identity), data_port=taken)
    await third.start()
    try:
        assert third.transport.data_port not in (0, taken)
        near, _ = await connect(pair.near, third)
        assert near.on_data_channel
    finally:
        await third.transport.close()
