"""Discovery where mDNS does not work: said once, retried, and never in the way of the agent."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Any

import pytest

from covey_mesh.core.addresses import InterfaceAddress
from covey_mesh.core.advertisement import Advertisement
from covey_mesh.core.names import NodeId, PoolId
from covey_mesh.io import discovery as module
from covey_mesh.io.discovery import Discovery, DiscoverySettings
from covey_mesh.io.interfaces import InterfaceMonitor

ADVERTISEMENT = Advertisement(PoolId("a" * 32), NodeId("1" * 32), "desk", "0.1", 7, 4711)
LAN = InterfaceAddress("eth0", "192.0.2.1", 24, 2)


class Refusing:
    """Stands for AsyncZeroconf: every opening fails."""

    def __init__(self, enough: int) -> None:
        self.tries = 0
        self.enough = asyncio.Event()
        self._wanted = enough

    def __call__(self, **_: Any) -> None:
        self.tries += 1
        if self.tries >= self._wanted:
            self.enough.set()
        raise OSError(errno.EADDRINUSE, "Address already in use")


@pytest.mark.asyncio
async def test_a_taken_port_is_said_once_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refusing = Refusing(enough=3)
    monkeypatch.setattr(module, "AsyncZeroconf", refusing)
    monitor = InterfaceMonitor(read=lambda: (LAN,))
    discovery = Discovery(ADVERTISEMENT, lambda *_: None, monitor, DiscoverySettings(retry_interval_s=0.001))
    with caplog.at_level(logging.WARNING):
        discovery.start()
        async with asyncio.timeout(10):
            await refusing.enough.wait()
    assert discovery.problem is not None
    assert "Address already in use" in discovery.problem
    assert [record.name for record in caplog.records] == ["covey_mesh.io.discovery"]
    assert "--peer" in caplog.text
    await discovery.stop()
    tries = refusing.tries
    await asyncio.sleep(0)
    assert refusing.tries == tries, "nothing goes on after stop"


@pytest.mark.asyncio
async def test_without_an_address_nothing_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = Refusing(enough=1)
    monkeypatch.setattr(module, "AsyncZeroconf", refusing)
    discovery = Discovery(ADVERTISEMENT, lambda *_: None, InterfaceMonitor(read=lambda: ()))
    discovery.start()
    for _ in range(5):
        await asyncio.sleep(0)
    assert refusing.tries == 0
    assert discovery.addresses() == ()
    await discovery.stop()
    await discovery.stop()


@pytest.mark.asyncio
async def test_only_addresses_on_which_the_link_answers_are_announced() -> None:
    six = InterfaceAddress("eth0", "fd00::1", 64, 2)
    monitor = InterfaceMonitor(read=lambda: (LAN, six))
    settings = DiscoverySettings(listen_host="0.0.0.0")
    assert Discovery(ADVERTISEMENT, lambda *_: None, monitor, settings).addresses() == (LAN,)
    assert Discovery(ADVERTISEMENT, lambda *_: None, monitor).addresses() == (LAN, six)
