"""How far a connection to a link port gets, against real ports: a link's, a stranger's, a frozen one, a closed one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.links import Recorder, facts_of, new_member, new_pool

from covey_mesh.io.identity import Identity
from covey_mesh.io.path_probe import PathProbe, Reach, probe_path, probe_tcp
from covey_mesh.io.tls_probe import client_context
from covey_mesh.io.transport import GrpcTransport


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Identity, Identity]:
    keeper = new_pool(tmp_path / "a")
    return keeper, new_member(tmp_path / "b", keeper)


async def tried(address: str, expected: str, own: Identity) -> PathProbe:
    return await probe_path(address, expected, own, client_context(own), time.time())


@contextmanager
def kernel_alone() -> Iterator[str]:
    """Connections are accepted by the kernel, as for a process that is frozen."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen(8)
        yield f"127.0.0.1:{opened.getsockname()[1]}"


@pytest.mark.asyncio
async def test_a_link_port_takes_everything_and_no_link_comes_of_it(pair: tuple[Identity, Identity]) -> None:
    own, other = pair
    recorder = Recorder()
    transport = GrpcTransport(other, recorder, "127.0.0.1:0", facts_of(other))
    await transport.start()
    try:
        address = f"127.0.0.1:{transport.port}"
        assert (await tried(address, other.node_id, own)).reach is Reach.WHOLE
        assert (await probe_tcp(address)).reach is Reach.WHOLE
        another = await tried(address, own.node_id, own)
        assert another.reach is Reach.UNTRUSTED
        assert other.node_id[:8] in another.detail
    finally:
        await transport.close()
    assert recorder.links == []


@pytest.mark.asyncio
async def test_a_port_of_another_pool(pair: tuple[Identity, Identity], tmp_path: Path) -> None:
    stranger = new_pool(tmp_path / "stranger")
    transport = GrpcTransport(stranger, Recorder(), "127.0.0.1:0", facts_of(stranger))
    await transport.start()
    try:
        found = await tried(f"127.0.0.1:{transport.port}", stranger.node_id, pair[0])
    finally:
        await transport.close()
    assert found.reach is Reach.UNTRUSTED


@pytest.mark.asyncio
async def test_nothing_listens_and_no_address(pair: tuple[Identity, Identity]) -> None:
    with kernel_alone() as address:
        pass
    assert (await tried(address, "x", pair[0])).reach is Reach.REFUSED
    assert (await tried("nonsense", "x", pair[0])).reach is Reach.SILENT


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HANDSHAKE_TIMEOUT_S", "FRAME_TIMEOUT_S"):
        monkeypatch.setattr(f"covey_mesh.io.path_probe.{name}", 0.2)


@pytest.mark.asyncio
async def test_a_process_that_never_answers(pair: tuple[Identity, Identity], hasty: None) -> None:
    with kernel_alone() as address:
        assert (await tried(address, "x", pair[0])).reach is Reach.FROZEN


@pytest.mark.asyncio
async def test_certificates_that_do_not_come_through(pair: tuple[Identity, Identity], hasty: None) -> None:
    """Nonsense is answered, a handshake is not: what a path does that swallows full packets."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(3) != b"GET":
            await reader.read()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert (await tried(address, "x", pair[0])).reach is Reach.SMALL
