"""Surveys the links of the pool for this machine's doctor: its own pairs, those between others, and multicast.

Run by the agent, which holds the links. Pairs are measured at the same time only where they share no machine, so that
no measurement disturbs another. Not here: measuring one pair (measuring.py), judging (links.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from covey.doctor import rendezvous
from covey.doctor.measuring import MULTICAST, PAIR, Measurer, Questions
from covey.doctor.pair import BadReportError, Heard, PairMeasure, Survey, pair_from_json, read_json
from covey_mesh.core.addresses import InterfaceAddress
from covey_mesh.core.facts import Member
from covey_mesh.core.names import NodeId
from covey_mesh.io.multicast import on_link

MACHINES_MAX = 7
"""Measured against each other, this one included: 21 pairs. Of a larger pool a sample, drawn anew each time."""

UNREACHABLE_MAX = 4
"""Machines without a link to which a dial is tried, to say why."""

MULTICAST_PEERS_MAX = 4
SURVEY_TIMEOUT_S = 15.0
PAIR_TIMEOUT_S = 10.0
MEET_TIMEOUT_S = rendezvous.MEET_S + 2.0

Interfaces = Callable[[], Sequence[InterfaceAddress]]
T = TypeVar("T")


class Surveyor:
    """One survey at a time: who asks meanwhile gets the result of the one under way."""

    def __init__(self, mesh: Questions, measurer: Measurer, interfaces: Interfaces) -> None:
        self._mesh = mesh
        self._measurer = measurer
        self._interfaces = interfaces
        self._running: asyncio.Task[Survey] | None = None

    async def survey(self) -> Survey:
        """Takes about a second, at most SURVEY_TIMEOUT_S; what is not known by then is counted as late."""
        if self._running is None or self._running.done():
            self._running = asyncio.get_running_loop().create_task(self._survey())
        return await asyncio.shield(self._running)

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _survey(self) -> Survey:
        others = [one for node_id, one in self._mesh.view().members.items() if node_id != self._mesh.self_id]
        reachable = _sample([one for one in others if one.reachable], MACHINES_MAX - 1)
        away = _sample([one for one in others if not one.reachable], UNREACHABLE_MAX)
        pairs = pairs_of(self._mesh.self_id, [one.node_id for one in reachable], [one.node_id for one in away])
        found: list[PairMeasure] = []
        heard: list[Heard] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SURVEY_TIMEOUT_S):
                await asyncio.gather(self._measure_all(pairs, found), self._meet(reachable, heard))
        late = len(pairs) - len(found)
        return Survey(tuple(found), tuple(heard), 1 + len(reachable) + len(away), 1 + len(others), late)

    async def _measure_all(self, pairs: Iterable[tuple[NodeId, NodeId]], found: list[PairMeasure]) -> None:
        busy: dict[NodeId, asyncio.Lock] = {}

        async def measure(source: NodeId, target: NodeId) -> None:
            # Always in the same order: two pairs never wait for each other.
            first, second = (busy.setdefault(one, asyncio.Lock()) for one in sorted((source, target)))
            async with first, second:
                pair = await self._measure(source, target)
            if pair is not None:
                found.append(pair)

        await asyncio.gather(*(measure(*pair) for pair in pairs))

    async def _measure(self, source: NodeId, target: NodeId) -> PairMeasure | None:
        if source == self._mesh.self_id:
            return await self._measurer.measure(target)
        answer = await self._mesh.query(source, PAIR, target.encode(), PAIR_TIMEOUT_S)
        try:
            value = read_json(answer)
            pair = None if value is None else pair_from_json(value)
        except BadReportError:
            return None
        return pair if pair is not None and (pair.source, pair.target) == (source, target) else None

    async def _meet(self, members: Iterable[Member], heard: list[Heard]) -> None:
        interfaces = self._interfaces()
        near = [one.node_id for one in members if is_near(one, interfaces)]
        near = _sample(near, MULTICAST_PEERS_MAX)
        if not near:
            return
        ours, theirs = rendezvous.new_word(), {node_id: rendezvous.new_word() for node_id in near}
        listening = asyncio.to_thread(rendezvous.meet, interfaces, ours, list(theirs.values()))
        said = (self._ask_to_meet(node_id, theirs[node_id], ours) for node_id in near)
        heard_here, answers = await asyncio.gather(listening, asyncio.gather(*said))
        for node_id, there in zip(near, answers, strict=True):
            if there is not None:
                heard.append(Heard(node_id, theirs[node_id] in heard_here, there))

    async def _ask_to_meet(self, node_id: NodeId, say: str, listen: str) -> bool | None:
        payload = json.dumps({"say": say, "listen": listen}).encode()
        answer = await self._mesh.query(node_id, MULTICAST, payload, MEET_TIMEOUT_S)
        return None if answer is None else answer == b"1"


def pairs_of(own: NodeId, reachable: Sequence[NodeId], away: Sequence[NodeId]) -> list[tuple[NodeId, NodeId]]:
    """Own pairs first: they are what the person at this machine asked for."""
    return [(own, one) for one in (*reachable, *away)] + list(itertools.combinations(reachable, 2))


def is_near(member: Member, interfaces: Iterable[InterfaceAddress]) -> bool:
    """Whether one of its addresses lies in a network of this machine: multicast should pass between the two."""
    hosts = [address.rpartition(":")[0].strip("[]") for address in member.facts.link_addresses]
    return any(on_link(host, interface) for interface in interfaces for host in hosts)


def _sample(found: list[T], most: int) -> list[T]:
    return found if len(found) <= most else random.sample(found, most)
