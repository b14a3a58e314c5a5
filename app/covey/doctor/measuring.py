"""Measures the pair of this machine and another: clock, round trip, reach both ways, rates. Bounded in bytes and time.

Order matters: what could hurt the link between the two (large messages) comes last, in growing sizes, and not at all
where full packets were seen to vanish. Not here: which pairs (survey.py), what follows (links.py).
"""

from __future__ import annotations

import asyncio
import itertools
import math
import ssl
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from covey.doctor.pair import ADDRESSES_TRIED_MAX, BadReportError, Dials, PairMeasure, dials_from_json, read_json
from covey_mesh.core.facts import NodeFacts, PoolView
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import QueryHandler, SlowQueryHandler
from covey_mesh.io.identity import Identity
from covey_mesh.io.path_probe import PathProbe, Reach, probe_path, probe_tcp
from covey_mesh.io.tls_probe import client_context

CLOCK = "doctor.clock"
BULK = "doctor.bulk"
DIAL = "doctor.dial"
PAIR = "doctor.pair"
MULTICAST = "doctor.multicast"

CLOCK_QUESTIONS = 5
"""The quickest one counts: the others waited for a busy machine."""

CLOCK_TIMEOUT_S = 1.5
DIAL_TIMEOUT_S = 6.0
"""Every wait of a path probe after the other, and its answer's way back."""

BULK_SIZES_BYTES = (16 * 1024, 64 * 1024, 192 * 1024)
"""One after the other each way, as long as they are quick."""

PAIR_BYTES_MAX = 1024 * 1024
"""All of them both ways, the last one twice, stay below."""

BULK_QUICK_S = 0.1
"""A slower one tells enough already, and a link must not be blocked for long: tokens wait behind it."""

BULK_TIMEOUT_S = 3.0
SIZE_BYTES = 4
"""A bulk question begins with the size of the answer that it wants."""


class Questions(Protocol):
    """What the doctor needs of the mesh (covey_mesh.core.ports.Mesh has it)."""

    @property
    def self_id(self) -> NodeId: ...

    def view(self) -> PoolView: ...

    async def query(self, node_id: NodeId, kind: str, payload: bytes, timeout_s: float) -> bytes | None: ...

    def answer_queries(self, kind: str, handler: QueryHandler) -> None: ...

    def answer_queries_later(self, kind: str, handler: SlowQueryHandler) -> None: ...


class Measurer:
    """`clock` counts up (seconds), `unix_clock` is the time of day."""

    def __init__(
        self, mesh: Questions, identity: Identity, clock: Callable[[], float], unix_clock: Callable[[], float]
    ) -> None:
        self._mesh = mesh
        self._identity = identity
        self._clock = clock
        self._unix_clock = unix_clock
        self._context: ssl.SSLContext | None = None

    async def measure(self, target: NodeId) -> PairMeasure:
        """Never raises for what the other side does."""
        round_trip_s, skew_s = await self._ask_clock(target)
        there, back = await asyncio.gather(self.dial(target), self._be_dialed(target, round_trip_s is not None))
        out_rate = in_rate = None
        if round_trip_s is not None and not swallows_full_packets(there, back):
            out_rate = await self._rate(round_trip_s, lambda size: self._bulk(target, size, 0))
            in_rate = await self._rate(round_trip_s, lambda size: self._bulk(target, 0, size))
        return PairMeasure(self._mesh.self_id, target, round_trip_s, skew_s, out_rate, in_rate, there, back)

    async def dial(self, target: NodeId) -> Dials | None:
        """Try the addresses that the pool knows of that machine, and only those; None where it knows of none."""
        member = self._mesh.view().members.get(target)
        if member is None:
            return None
        link = [self._probe(address, target) for address in _first(member.facts.link_addresses)]
        gateway = [probe_tcp(address) for address in _first(member.facts.gateway_addresses)]
        data = [probe_tcp(address) for address in _data_addresses(member.facts)]
        found = iter(await asyncio.gather(*link, *gateway, *data))
        return Dials(*(tuple(itertools.islice(found, len(tries))) for tries in (link, gateway, data)))

    def _probe(self, address: str, target: NodeId) -> Coroutine[Any, Any, PathProbe]:
        if self._context is None:
            self._context = client_context(self._identity)
        return probe_path(address, target, self._identity, self._context, self._unix_clock())

    async def _be_dialed(self, target: NodeId, linked: bool) -> Dials | None:
        if not linked:
            return None
        try:
            found = read_json(await self._mesh.query(target, DIAL, b"", DIAL_TIMEOUT_S))
            return None if found is None else dials_from_json(found)
        except BadReportError:
            return None

    async def _ask_clock(self, target: NodeId) -> tuple[float | None, float | None]:
        """(round trip, the other clock minus ours), after Cristian (1989): the answer is taken for half-way old."""
        best: tuple[float, float] | None = None
        for _ in range(CLOCK_QUESTIONS):
            asked_s, asked_unix_s = self._clock(), self._unix_clock()
            told_unix_s = _unix_s(await self._mesh.query(target, CLOCK, b"", CLOCK_TIMEOUT_S))
            took_s = self._clock() - asked_s
            if told_unix_s is None:
                break
            if best is None or took_s < best[0]:
                best = (took_s, told_unix_s - (asked_unix_s + took_s / 2))
        return best or (None, None)

    async def _rate(self, round_trip_s: float, transfer: Callable[[int], Coroutine[Any, Any, bool]]) -> float | None:
        """Bytes a second of the largest transfer that was tried."""
        rate = None
        for size_bytes in BULK_SIZES_BYTES:
            took_s = await self._time(size_bytes, transfer)
            if took_s is not None and BULK_QUICK_S < took_s < BULK_TIMEOUT_S:
                # Once more: a busy processor looks like a slow link, but seldom twice.
                took_s = min(took_s, await self._time(size_bytes, transfer) or took_s)
            if took_s is None:
                break
            rate = rate_of(size_bytes, took_s, round_trip_s)
            if took_s > BULK_QUICK_S:
                break
        return rate

    async def _time(self, size_bytes: int, transfer: Callable[[int], Coroutine[Any, Any, bool]]) -> float | None:
        """None where it was refused or the link was lost; what is not through in time is as slow as that at best."""
        started_s = self._clock()
        arrived = await transfer(size_bytes)
        took_s = self._clock() - started_s
        return took_s if arrived or took_s >= BULK_TIMEOUT_S else None

    async def _bulk(self, target: NodeId, out_bytes: int, in_bytes: int) -> bool:
        payload = in_bytes.to_bytes(SIZE_BYTES, "big") + bytes(out_bytes)
        answer = await self._mesh.query(target, BULK, payload, BULK_TIMEOUT_S)
        return answer is not None and len(answer) >= in_bytes


def rate_of(size_bytes: int, took_s: float, round_trip_s: float) -> float:
    """Without the round trip that even an empty message costs; at most what fits in a tenth of the whole time."""
    return size_bytes / max(took_s - round_trip_s, took_s / 10, 1e-6)


def _data_addresses(facts: NodeFacts) -> list[str]:
    if not facts.data_port:
        return []
    return [f"{address.rpartition(':')[0]}:{facts.data_port}" for address in _first(facts.link_addresses)]


def swallows_full_packets(*dials: Dials | None) -> bool:
    """Whether any of the link addresses let only small packets through."""
    return any(probe.reach is Reach.SMALL for one in dials if one is not None for probe in one.link)


def _first(addresses: Iterable[str]) -> list[str]:
    return list(addresses)[:ADDRESSES_TRIED_MAX]


def _unix_s(payload: bytes | None) -> float | None:
    try:
        found = float(payload) if payload is not None and len(payload) <= 32 else None
    except ValueError:
        return None
    return found if found is not None and math.isfinite(found) else None
