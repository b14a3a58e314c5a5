"""Which machine, and where none is, which pair, is to blame for what is bad between pairs? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from covey_mesh.core.names import NodeId

Pair = tuple[NodeId, NodeId]

PAIRS_TO_BLAME = 2
"""One bad pair says nothing about which of its two machines is the cause."""


@dataclass(frozen=True, slots=True)
class Blamed:
    """`everybody`: every pair is bad, so that the network itself is; machines and pairs are empty then."""

    machines: tuple[NodeId, ...] = ()
    pairs: tuple[Pair, ...] = ()
    everybody: bool = False


def blame(bad: Sequence[Pair], tried: Sequence[Pair], own: NodeId) -> Blamed:
    """The fewest machines, found greedily, of which each has every one of its pairs bad.

    The one with most pairs first, then `own`, then the smallest id.
    """
    left, machines = list(dict.fromkeys(bad)), list[NodeId]()
    if len(left) > PAIRS_TO_BLAME and set(tried) == set(left):
        return Blamed(everybody=True)
    while guilty := [
        one for one in _machines(left) if _all_bad(one, bad, tried) and _count(one, left) >= PAIRS_TO_BLAME
    ]:
        worst = min(guilty, key=lambda one: (-_count(one, left), one != own, one))
        machines.append(worst)
        left = [pair for pair in left if worst not in pair]
    return Blamed(tuple(machines), tuple(left))


def _machines(pairs: Sequence[Pair]) -> set[NodeId]:
    return {one for pair in pairs for one in pair}


def _count(machine: NodeId, pairs: Sequence[Pair]) -> int:
    return sum(machine in pair for pair in pairs)


def _all_bad(machine: NodeId, bad: Sequence[Pair], tried: Sequence[Pair]) -> bool:
    return all(pair in bad for pair in tried if machine in pair)
