"""mDNS: announces this machine as `_covey._tcp.local.` and turns other machines' announcements into dial hints.

A hint is all that mDNS ever gives: who answers at an address is proven by TLS, whether it lives by its link. A
goodbye, an expiry or a redirected record only means "no hint". What is announced and what is believed are decided in
covey_mesh.core.advertisement and covey_mesh.core.hints; here are the sockets, by way of python-zeroconf.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import zeroconf
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from covey_mesh.core.addresses import (
    ADVERTISED_ADDRESSES_MAX,
    AddressKind,
    InterfaceAddress,
    answering,
    host_port,
    kind_of,
    nearest_first,
    one_per_interface,
    usable_addresses,
)
from covey_mesh.core.advertisement import SERVICE_TYPE, Advertisement, Rejection, build_txt, instance_label, read_txt
from covey_mesh.core.hints import Hint, HintBook, UpdateGate
from covey_mesh.core.names import NodeId
from covey_mesh.io.interfaces import InterfaceMonitor
from covey_mesh.io.service_browser import ServiceBrowser

log = logging.getLogger(__name__)

OnHint = Callable[[tuple[str, ...], NodeId, Advertisement], None]
"""(HOST:PORT best first, the node id that is claimed there, what else is claimed)."""

REGISTER_TIMEOUT_S = 10.0
"""Probing and announcing take 1.2 s; a neighbour that contests every name must not hold us up for longer."""

STOP_TIMEOUT_S = 2.0

HINTS_RETOLD_EVERY_S = 0.5
"""While hints are held back by their rate bound."""

PAUSE_MIN_S = 0.05


@dataclass(frozen=True, slots=True)
class DiscoverySettings:
    """How this machine takes part."""

    # Announce and listen on loopback alone: several agents on one machine, nothing on the LAN.
    loopback_only: bool = False
    # Loopback beside the LAN. Without it loopback is used only while there is no other address.
    include_loopback: bool = False
    # Where the link listens: only addresses on which it answers are announced. "" and "::": every one.
    listen_host: str = ""
    # IP addresses to announce instead of those found (a forwarded address); others dial them in this order or another.
    advertised_hosts: tuple[str, ...] = ()
    # Announcements can be lost where no cable tells (a switch, an access point): ask again, at first soon, then seldom.
    ask_again_first_s: float = 1.0
    ask_again_max_s: float = 30.0
    # After an error of the sockets (no multicast, port taken).
    retry_interval_s: float = 5.0


boottime_s: Callable[[], float] = functools.partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Goes on during suspend, so that intervals mean what they say after a laptop wakes. No function of our own: it is
asked a dozen times for each request."""


class Discovery:
    """Announces and listens from `start` to `stop`, through changing addresses, pulled cables and failing sockets.

    All calls and callbacks on the event loop's thread. `start` returns at once: registering takes 1.2 s and goes on
    in the background.
    """

    def __init__(
        self,
        advertisement: Advertisement,
        on_hint: OnHint,
        monitor: InterfaceMonitor,
        settings: DiscoverySettings | None = None,
        clock: Callable[[], float] = boottime_s,
    ) -> None:
        self._advertisement = advertisement
        self._on_hint = on_hint
        self._monitor = monitor
        self._settings = settings or DiscoverySettings()
        self._clock = clock
        self._gate = UpdateGate()
        self._book = HintBook()
        self.counts: Counter[str] = Counter()
        """Received records by what became of them: "accepted" or a Rejection's value."""
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: ServiceBrowser | None = None
        self._joined: tuple[InterfaceAddress, ...] = ()
        self._announced: tuple[InterfaceAddress, ...] = ()
        self._instance: str | None = None
        self._broadcasts: set[asyncio.Future[None]] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._ask_again_s = self._settings.ask_again_first_s
        self._ask_again_at_s = 0.0
        self._problem: str | None = None

    @property
    def instance(self) -> str | None:
        """The registered instance name; None until the first announcement went out."""
        return self._instance

    @property
    def problem(self) -> str | None:
        """Why mDNS does not work now, for people; None while it does."""
        return self._problem

    def known(self) -> tuple[Hint, ...]:
        """Every announcement remembered, longest unheard first."""
        return self._book.known()

    def addresses(self) -> tuple[InterfaceAddress, ...]:
        """The addresses of this machine that are announced, best first."""
        found = self._monitor.current
        if self._settings.loopback_only:
            found = tuple(one for one in found if kind_of(one) is AddressKind.LOOPBACK)
        found = answering(found, self._settings.listen_host)
        return usable_addresses(found, include_loopback=self._settings.include_loopback)

    def start(self) -> None:
        """Begin in the background; needs a running event loop."""
        if self._task is None:
            self._unsubscribe = self._monitor.subscribe(self._interfaces_changed)
            self._task = asyncio.get_running_loop().create_task(self._run(), name="discovery")

    def advertise(self, advertisement: Advertisement) -> None:
        """Announce this from now on; how soon is decided by covey_mesh.core.hints.UpdateGate."""
        self._advertisement = advertisement
        if self._gate.wait_s(advertisement, self._clock()) is not None:
            self._wake.set()

    async def stop(self) -> None:
        """Say goodbye and close; takes about 0.3 s, never more than STOP_TIMEOUT_S. Safe to call twice."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._close()

    def _interfaces_changed(self, _: tuple[InterfaceAddress, ...]) -> None:
        self._ask_again_s = self._settings.ask_again_first_s
        self._ask_again_at_s = 0.0
        self._wake.set()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._reconcile()
                pause_s = self._pause_s()
                self._works()
            except (OSError, RuntimeError, zeroconf.Error, TimeoutError) as error:
                # RuntimeError: zeroconf's word for an interface that vanished between two looks.
                self._fails(error)
                await self._close()
                pause_s = self._settings.retry_interval_s
            try:
                await asyncio.wait_for(self._wake.wait(), pause_s)
            except TimeoutError:
                pass

    async def _reconcile(self) -> None:
        """Bring sockets, registration and knowledge in line with the interfaces and the advertisement of now."""
        addresses = self.addresses()
        if self._zeroconf is None:
            if not addresses:
                self._ask_again_at_s = self._clock() + self._settings.ask_again_max_s
                return
            self._open(one_per_interface(addresses))
        elif self._instance is not None and addresses != self._announced:
            # First the records, then the sockets: new sockets announce what is registered at that moment.
            await self._update(addresses)
        assert self._zeroconf is not None
        await self._join(one_per_interface(addresses))
        if self._instance is None:
            await self._register(addresses)
        elif self._gate.wait_s(self._advertisement, self._clock()) == 0.0:
            await self._update(addresses)
        self._ask_again()
        self._tell_hints()

    def _pause_s(self) -> float:
        """Until the next thing to do, if nothing wakes us earlier."""
        now_s = self._clock()
        waits_s = [self._ask_again_at_s - now_s]
        update_s = self._gate.wait_s(self._advertisement, now_s)
        if update_s is not None and self._instance is not None:
            waits_s.append(update_s)
        if self._book.pending:
            waits_s.append(HINTS_RETOLD_EVERY_S)
        return max(PAUSE_MIN_S, min(waits_s))

    def _open(self, joined: tuple[InterfaceAddress, ...]) -> None:
        self._zeroconf = AsyncZeroconf(interfaces=[one.address for one in joined])
        self._joined = joined
        self._browser = ServiceBrowser(SERVICE_TYPE, self._found, self._lost)
        self._browser.start(self._zeroconf.zeroconf)

    async def _join(self, joined: tuple[InterfaceAddress, ...]) -> None:
        assert self._zeroconf is not None
        # Again with every question: a new IPv6 address cannot be bound for its first seconds (duplicate detection),
        # and zeroconf skips it. Where nothing is missing this does nothing.
        if joined != self._joined or self._clock() >= self._ask_again_at_s:
            await self._zeroconf.async_update_interfaces([one.address for one in joined])
            self._joined = joined

    async def _register(self, addresses: tuple[InterfaceAddress, ...]) -> None:
        assert self._zeroconf is not None
        sent = self._advertisement
        wanted = f"{instance_label(sent)}.{SERVICE_TYPE}"
        info = self._service_info(wanted, sent, addresses)
        try:
            async with asyncio.timeout(REGISTER_TIMEOUT_S):
                broadcast = await self._zeroconf.async_register_service(info, allow_name_change=True)
        except TimeoutError:
            # Somebody contests every name. The name is only for people: identity is in the certificate.
            broadcast = await self._zeroconf.async_register_service(info, cooperating_responders=True)
        self._keep(broadcast)
        if info.name != wanted:
            log.warning(
                "another machine announces this machine's instance name; announcing under another one. "
                "Look for a copied data directory (two machines with one key) or a forged announcement",
                extra={"wanted": wanted, "used": info.name},
            )
        self._instance = info.name
        self._sent(sent, addresses)

    async def _update(self, addresses: tuple[InterfaceAddress, ...]) -> None:
        assert self._zeroconf is not None
        assert self._instance is not None
        sent = self._advertisement
        self._keep(await self._zeroconf.async_update_service(self._service_info(self._instance, sent, addresses)))
        self._sent(sent, addresses)

    def _sent(self, advertisement: Advertisement, addresses: tuple[InterfaceAddress, ...]) -> None:
        self._gate.sent(advertisement, self._clock())
        self._announced = addresses

    def _service_info(
        self, instance: str, advertisement: Advertisement, addresses: tuple[InterfaceAddress, ...]
    ) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE_TYPE,
            instance,
            port=advertisement.link_port,
            properties=build_txt(advertisement),
            # A host name of its own: a shared one would merge two machines' addresses into one set.
            server=f"{advertisement.node_id}.local.",
            parsed_addresses=list(self._settings.advertised_hosts) or [one.address for one in addresses],
        )

    def _keep(self, broadcast: Awaitable[None]) -> None:
        """Hold on to zeroconf's repeated announcements, which run by themselves."""
        future = asyncio.ensure_future(broadcast)
        self._broadcasts.add(future)
        future.add_done_callback(self._broadcasts.discard)

    def _ask_again(self) -> None:
        now_s = self._clock()
        if now_s < self._ask_again_at_s:
            return
        if self._browser is not None:
            self._browser.ask()
        self._ask_again_at_s = now_s + self._ask_again_s
        self._ask_again_s = min(self._ask_again_s * 2, self._settings.ask_again_max_s)

    def _found(self, instance: str, info: AsyncServiceInfo) -> None:
        read = read_txt(info.properties, len(info.text), self._advertisement.pool_id, self._advertisement.node_id)
        if isinstance(read, Rejection):
            self.counts[read.value] += 1
            self._book.gone(instance)
            return
        hosts = [host for host in info.parsed_scoped_addresses() if self._dialable(host)]
        nearest = nearest_first(hosts, self._monitor.current)[:ADVERTISED_ADDRESSES_MAX]
        if not nearest or not info.port:
            self.counts[Rejection.MALFORMED.value] += 1
            return
        self.counts["accepted"] += 1
        self._book.heard(instance, Hint(tuple(host_port(h, info.port) for h in nearest), read.node_id, read))
        self._tell_hints()

    def _dialable(self, host: str) -> bool:
        """Another machine's loopback address is nobody's; here it counts only while this machine offers its own."""
        kind = kind_of(InterfaceAddress("", host.partition("%")[0], 0))
        if kind is AddressKind.LOOPBACK:
            return any(kind_of(one) is AddressKind.LOOPBACK for one in self.addresses())
        return kind is not AddressKind.UNUSABLE

    def _lost(self, instance: str) -> None:
        self._book.gone(instance)

    def _tell_hints(self) -> None:
        for hint in self._book.due(self._clock()):
            self._on_hint(hint.addresses, hint.claimed, hint.advertisement)

    def _works(self) -> None:
        if self._problem is not None:
            log.warning("mDNS works again")
        self._problem = None

    def _fails(self, error: Exception) -> None:
        first = self._problem is None
        self._problem = f"{type(error).__name__}: {error}".rstrip(": ")
        if first:
            log.warning(
                "mDNS does not work here; other machines are still found by --peer and by the peers of peers. "
                "`covey doctor` says what blocks it (no multicast on the interface, or port 5353 held by a program "
                "that does not share it)",
                extra={"error": self._problem, "retry_s": self._settings.retry_interval_s},
            )

    async def _close(self) -> None:
        browser, self._browser = self._browser, None
        opened, self._zeroconf = self._zeroconf, None
        self._joined, self._announced, self._instance = (), (), None
        self._gate = UpdateGate()
        if browser is not None:
            await browser.stop()
        if opened is not None:
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await opened.async_close()
            except (OSError, RuntimeError, zeroconf.Error, TimeoutError) as error:
                log.debug("closing mDNS", extra={"error": str(error)})
        for broadcast in self._broadcasts:
            broadcast.cancel()
