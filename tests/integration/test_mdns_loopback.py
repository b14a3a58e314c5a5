"""Real mDNS on loopback alone: no root, no namespaces, nothing leaves the machine."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator

import pytest
from zeroconf import AddressResolverIPv4, DNSAddress, DNSOutgoing, DNSQuestion
from zeroconf.asyncio import AsyncZeroconf

from covey_mesh.core.advertisement import Advertisement
from covey_mesh.core.names import NodeId, PoolId
from covey_mesh.io.discovery import Discovery, DiscoverySettings
from covey_mesh.io.interfaces import InterfaceMonitor, read_interfaces
from covey_mesh.io.multicast import group_address, open_mdns_socket
from covey_mesh.io.pool_name import PoolName

TIMEOUT_S = 15.0
Hinted = tuple[tuple[str, ...], NodeId]


@contextlib.asynccontextmanager
async def discovering(pool: PoolId, number: int) -> AsyncIterator[tuple[Discovery, asyncio.Queue[Hinted]]]:
    hints: asyncio.Queue[Hinted] = asyncio.Queue()
    advertisement = Advertisement(pool, NodeId(f"{number}" * 32), f"desk-{number}", "0.1", number, 4000 + number)
    monitor = InterfaceMonitor()
    discovery = Discovery(
        advertisement,
        lambda addresses, claimed, _: hints.put_nowait((addresses, claimed)),
        monitor,
        DiscoverySettings(loopback_only=True),
    )
    monitor.start()
    discovery.start()
    try:
        yield discovery, hints
    finally:
        await discovery.stop()
        await monitor.stop()


@pytest.mark.asyncio
async def test_two_agents_on_one_machine_find_each_other_on_loopback() -> None:
    pool = PoolId(secrets.token_hex(16))
    async with discovering(pool, 1) as (_, first), discovering(pool, 2) as (_, second):
        async with asyncio.timeout(TIMEOUT_S):
            assert await first.get() == (("127.0.0.1:4002",), NodeId("2" * 32))
            assert await second.get() == (("127.0.0.1:4001",), NodeId("1" * 32))
        assert first.empty()
        assert second.empty()


@pytest.mark.asyncio
async def test_the_pools_name_on_loopback_survives_garbage() -> None:
    monitor = InterfaceMonitor()
    name = PoolName(f"test-{secrets.token_hex(4)}", monitor, loopback_only=True)
    name.publish()
    resolver = AsyncZeroconf(interfaces=["127.0.0.1"])
    seed = secrets.randbelow(2**32)
    print(f"seed {seed}")
    try:
        send_garbage(random.Random(seed), name.host)
        async with asyncio.timeout(TIMEOUT_S):
            found = AddressResolverIPv4(name.host)
            while not await found.async_request(resolver.zeroconf, 1000):
                pass
        assert found.parsed_addresses() == ["127.0.0.1"]
    finally:
        await name.stop()
        await resolver.async_close()
    assert not name.published


def send_garbage(dice: random.Random, host: str) -> None:
    """Noise, and real questions for `host` with bytes changed, cut or added."""
    loopback = next(one for one in read_interfaces() if one.address == "127.0.0.1")
    query = DNSOutgoing(0)
    query.add_question(DNSQuestion(host, 1, 1))
    query.add_answer_at_time(DNSAddress(host, 1, 1, 10, bytes([127, 0, 0, 1])), 0)
    question = query.packets()[0]
    with contextlib.closing(open_mdns_socket(loopback)) as sender:
        for number in range(600):
            changed = bytearray(question if number % 2 else dice.randbytes(dice.randrange(1, 1400)))
            for _ in range(dice.randrange(4)):
                changed[dice.randrange(len(changed))] = dice.randrange(256)
            with contextlib.suppress(BlockingIOError):
                sender.sendto(bytes(changed[: dice.randrange(1, len(changed) + 1)]), group_address(loopback))
