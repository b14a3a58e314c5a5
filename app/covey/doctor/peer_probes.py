"""What this machine does for the doctors of other machines of the pool, through questions over links.

Nobody else can ask: links are mutual TLS. A question never names an address: this machine dials only the asker, or a
machine of the pool, under the addresses that it knows itself, so that nobody can make it scan the network. Everything
is bounded by allowances; what exceeds them is answered with "not found". Not here: asking (measuring.py, survey.py).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence

from covey.doctor import rendezvous
from covey.doctor.allowance import Allowance
from covey.doctor.measuring import (
    BULK,
    BULK_SIZES_BYTES,
    CLOCK,
    DIAL,
    MULTICAST,
    PAIR,
    SIZE_BYTES,
    Measurer,
    Questions,
)
from covey.doctor.pair import BadReportError, dials_to_json, pair_to_json, read_json
from covey_mesh.core.addresses import InterfaceAddress
from covey_mesh.core.names import NodeId, is_id

CLOCK_BURST, CLOCK_PER_S = 200.0, 50.0
BULK_BURST_BYTES, BULK_BYTES_PER_S = 16.0 * 1024 * 1024, 2.0 * 1024 * 1024
"""A sample of machines (survey.MACHINES_MAX) can be measured at once, then one pair or two a second."""

WORK_BURST, WORK_PER_S = 32.0, 2.0
"""Dials, measurements and meetings: each opens a few sockets for a few seconds."""

Reply = Callable[[bytes | None], None]
Interfaces = Callable[[], Sequence[InterfaceAddress]]


class PeerProbes:
    """Registers its handlers with the mesh when made. `interfaces`: where to try multicast; empty without mDNS."""

    def __init__(
        self,
        mesh: Questions,
        measurer: Measurer,
        interfaces: Interfaces,
        clock: Callable[[], float],
        unix_clock: Callable[[], float],
    ) -> None:
        self._measurer = measurer
        self._interfaces = interfaces
        self._clock = clock
        self._unix_clock = unix_clock
        self._clocks = Allowance(CLOCK_BURST, CLOCK_PER_S, clock())
        self._bulk = Allowance(BULK_BURST_BYTES, BULK_BYTES_PER_S, clock())
        self._work = Allowance(WORK_BURST, WORK_PER_S, clock())
        self._tasks: set[asyncio.Task[None]] = set()
        mesh.answer_queries(CLOCK, self._tell_clock)
        mesh.answer_queries(BULK, self._take_bulk)
        mesh.answer_queries_later(DIAL, self._dial)
        mesh.answer_queries_later(PAIR, self._measure_pair)
        mesh.answer_queries_later(MULTICAST, self._meet)

    async def stop(self) -> None:
        """End what is under way; nobody is answered any more."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tell_clock(self, payload: bytes) -> bytes | None:
        if payload or not self._clocks.take(1, self._clock()):
            return None
        return repr(self._unix_clock()).encode()

    def _take_bulk(self, payload: bytes) -> bytes | None:
        """Its first bytes say how long the answer shall be; all others are ballast."""
        wanted = int.from_bytes(payload[:SIZE_BYTES], "big")
        longest = max(BULK_SIZES_BYTES)
        if len(payload) < SIZE_BYTES or wanted > longest or len(payload) > longest + SIZE_BYTES:
            return None
        return bytes(wanted) if self._bulk.take(len(payload) + wanted, self._clock()) else None

    def _dial(self, sender: NodeId, payload: bytes, reply: Reply) -> None:
        async def dialed() -> bytes | None:
            found = await self._measurer.dial(sender)
            return None if found is None else json.dumps(dials_to_json(found)).encode()

        self._start(dialed, reply)

    def _measure_pair(self, sender: NodeId, payload: bytes, reply: Reply) -> None:
        target = NodeId(payload.decode("ascii", "replace"))
        if not is_id(target):
            reply(None)
            return

        async def measured() -> bytes | None:
            return json.dumps(pair_to_json(await self._measurer.measure(target))).encode()

        self._start(measured, reply)

    def _meet(self, sender: NodeId, payload: bytes, reply: Reply) -> None:
        words = _words(payload)
        addresses = self._interfaces()
        if words is None or not addresses:
            reply(None)
            return
        say, listen = words

        async def met() -> bytes | None:
            heard = await asyncio.to_thread(rendezvous.meet, addresses, say, [listen])
            return b"1" if listen in heard else b"0"

        self._start(met, reply)

    def _start(self, work: Callable[[], Coroutine[None, None, bytes | None]], reply: Reply) -> None:
        if not self._work.take(1, self._clock()):
            reply(None)
            return

        async def run() -> None:
            answer = None
            try:
                answer = await work()
            finally:
                reply(answer)

        task = asyncio.get_running_loop().create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            context = {"message": "a question of a doctor failed", "exception": task.exception(), "task": task}
            task.get_loop().call_exception_handler(context)


def _words(payload: bytes) -> tuple[str, str] | None:
    """(word to say, word to listen for); None where the question is malformed."""
    try:
        found = read_json(payload)
    except BadReportError:
        return None
    if not isinstance(found, dict):
        return None
    say, listen = str(found.get("say")), str(found.get("listen"))
    return (say, listen) if rendezvous.is_word(say) and rendezvous.is_word(listen) else None
