"""Browses one mDNS service type and resolves each instance, with bounds that a flood of names cannot pass.

Not here: what a record means (discovery.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zeroconf
from zeroconf import DNSOutgoing, DNSQuestion, ServiceListener
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo

RESOLVES_PENDING_MAX = 256
"""Instances waiting to be asked about; further ones are dropped (they are heard again when they are real)."""

RESOLVES_AT_ONCE_MAX = 8
RESOLVE_TIMEOUT_MS = 3000

# RFC 1035 section 3.2 and RFC 6762 section 18.
_TYPE_PTR = 12
_CLASS_IN = 1
_FLAGS_QUERY = 0


class ServiceBrowser(ServiceListener):
    """Calls `found` with each instance's complete records, again after each change, and `lost` after a goodbye."""

    def __init__(
        self,
        service_type: str,
        found: Callable[[str, AsyncServiceInfo], None],
        lost: Callable[[str], None],
    ) -> None:
        self._type = service_type
        self._found = found
        self._lost = lost
        self._zeroconf: zeroconf.Zeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._pending: dict[str, None] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self.overflowed = 0
        """Instances dropped because RESOLVES_PENDING_MAX others were waiting."""

    def start(self, opened: zeroconf.Zeroconf) -> None:
        """Browse on these sockets."""
        self._zeroconf = opened
        self._browser = AsyncServiceBrowser(opened, self._type, listener=self)

    def ask(self) -> None:
        """One more query, listing what is known already, so that only the unknown answer (RFC 6762 section 7.1)."""
        if self._zeroconf is None or not self._zeroconf.started:
            return
        now_ms = zeroconf.current_time_millis()
        query = DNSOutgoing(_FLAGS_QUERY)
        query.add_question(DNSQuestion(self._type, _TYPE_PTR, _CLASS_IN))
        for known in self._zeroconf.cache.get_all_by_details(self._type, _TYPE_PTR, _CLASS_IN):
            if not known.is_stale(now_ms):
                query.add_answer_at_time(known, now_ms)
        self._zeroconf.async_send(query)

    async def stop(self) -> None:
        """End browsing; no callback after this. The sockets stay open."""
        browser, self._browser = self._browser, None
        self._zeroconf = None
        self._pending.clear()
        workers = tuple(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        if browser is not None:
            await browser.async_cancel()

    def add_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """From zeroconf: a new instance."""
        self._changed(name)

    def update_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """From zeroconf: an instance's records changed."""
        self._changed(name)

    def remove_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """From zeroconf: a goodbye, or nobody repeated it for its time to live."""
        self._pending.pop(name, None)
        if self._zeroconf is not None:
            self._lost(name)

    def _changed(self, name: str) -> None:
        info = self._info(name)
        if info is None or self._zeroconf is None:
            return
        if info.load_from_cache(self._zeroconf):
            # Announcements carry all records, so this is the rule and asking the exception.
            self._found(name, info)
        elif len(self._pending) >= RESOLVES_PENDING_MAX:
            self.overflowed += 1
        else:
            self._pending[name] = None
            self._ensure_worker()

    def _info(self, name: str) -> AsyncServiceInfo | None:
        try:
            return AsyncServiceInfo(self._type, name)
        except zeroconf.BadTypeInNameException:
            return None

    def _ensure_worker(self) -> None:
        if len(self._workers) < RESOLVES_AT_ONCE_MAX:
            worker = asyncio.get_running_loop().create_task(self._resolve_pending(), name="mdns-resolve")
            self._workers.add(worker)

    async def _resolve_pending(self) -> None:
        try:
            while self._pending and self._zeroconf is not None:
                name = next(iter(self._pending))
                del self._pending[name]
                info = self._info(name)
                if info is not None and await info.async_request(self._zeroconf, RESOLVE_TIMEOUT_MS):
                    self._found(name, info)
        finally:
            # Here and not in a callback of the task: an instance that comes between the two would find no worker.
            worker = asyncio.current_task()
            if worker is not None:
                self._workers.discard(worker)
