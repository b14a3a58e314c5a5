"""Watches this machine's network interfaces: addresses that come, go and change, and cables pulled and put back.

Polling on purpose: it is the same on every system, costs well under a millisecond, and needs no privilege. What an
address is good for is decided in covey_mesh.core.addresses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import ifaddr

from covey_mesh.core.addresses import InterfaceAddress

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.5

InterfacesChanged = Callable[[tuple[InterfaceAddress, ...]], None]

_SYSFS = Path("/sys/class/net")


def read_interfaces() -> tuple[InterfaceAddress, ...]:
    """Every address of every interface now, unfiltered, in a stable order."""
    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            # ifaddr gives IPv6 as (address, flow info, scope id).
            address = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            found.append(
                InterfaceAddress(
                    interface=adapter.name,
                    address=address.partition("%")[0],
                    prefix_length=ip.network_prefix,
                    index=adapter.index or 0,
                    has_carrier=_has_carrier(adapter.name),
                )
            )
    return tuple(sorted(found, key=lambda a: (a.index, a.interface, a.is_ipv6, a.address)))


def _has_carrier(interface: str) -> bool:
    """False only where the kernel says that the cable is out; unknown counts as plugged in."""
    if "/" in interface:
        return True
    try:
        return (_SYSFS / interface / "operstate").read_text().strip() not in ("down", "lowerlayerdown", "notpresent")
    except OSError:
        return True


class InterfaceMonitor:
    """Polls and tells subscribers, on the event loop's thread, when the set of addresses or a carrier changed."""

    def __init__(
        self,
        poll_interval_s: float = POLL_INTERVAL_S,
        read: Callable[[], tuple[InterfaceAddress, ...]] = read_interfaces,
    ) -> None:
        self._poll_interval_s = poll_interval_s
        self._read = read
        self._current = read()
        self._subscribers: list[InterfacesChanged] = []
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    @property
    def current(self) -> tuple[InterfaceAddress, ...]:
        """As of the last poll."""
        return self._current

    def subscribe(self, changed: InterfacesChanged) -> Callable[[], None]:
        """Call `changed` with all addresses after every change. Returns the function that ends it."""
        self._subscribers.append(changed)
        return lambda: self._subscribers.remove(changed) if changed in self._subscribers else None

    def start(self) -> None:
        """Begin polling; needs a running event loop."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="interface-monitor")

    async def stop(self) -> None:
        """End polling. Safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def poll(self) -> bool:
        """Read once; True if something changed and subscribers were told."""
        try:
            found = self._read()
        except OSError as error:
            if not self._failing:
                log.warning(
                    "cannot read the network interfaces; keeping the last known ones", extra={"error": str(error)}
                )
            self._failing = True
            return False
        self._failing = False
        if found == self._current:
            return False
        self._current = found
        log.info("network interfaces changed", extra={"addresses": [f"{a.interface} {a.address}" for a in found]})
        for changed in list(self._subscribers):
            changed(found)
        return True

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._poll_interval_s)
            self.poll()
