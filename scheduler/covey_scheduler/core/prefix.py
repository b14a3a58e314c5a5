"""Which machine has seen which prompt before: chained block hashes, and an index of them.

The hash of block i covers blocks 0..i, so equal hashes mean equal prefixes, as in vLLM's automatic prefix caching;
blocks are bytes, not tokens, because no tokenizer runs here. The index is fed by assignments and forgets like the
engine's own cache: least recently used first, all at once when the engine or its machine has restarted. Where an engine
tells that it did not have what it was believed to have, everything that was used before that is forgotten too: a cache
that lets go in order of use cannot have kept it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from covey_mesh.core.names import NodeId

BLOCK_BYTES = 512
TOKENS_PER_BLOCK = 128
BLOCKS_MAX = 128
"""A prompt's first 64 KiB; a longer common prefix changes no choice."""


def prefix_hashes(prompt: bytes) -> tuple[int, ...]:
    """Chained 64-bit hashes of the prompt's full blocks, first block first; shorter prompts have none."""
    hashes: list[int] = []
    link = b""
    for start in range(0, min(len(prompt), BLOCK_BYTES * BLOCKS_MAX) - BLOCK_BYTES + 1, BLOCK_BYTES):
        link = blake2b(link + prompt[start : start + BLOCK_BYTES], digest_size=8).digest()
        hashes.append(int.from_bytes(link, "big"))
    return tuple(hashes)


EngineKey = tuple[NodeId, str]
"""(machine, model)."""


Depths = list[tuple[int, Sequence[NodeId]]]
"""(blocks, machines that know at least so many), deeper ones later: the last row that names a machine counts."""


PENDING_MAX = 1024
"""Uses of one engine's cache whose end is awaited; the oldest counts as ended."""


@dataclass(slots=True)
class Use:
    """One prompt that was sent to an engine. `found`: when the part of it that was known had last been used before, as
    a count of uses; 0: no part was, or it may not have been computed yet. Never assigned to."""

    number: int
    found: int = 0


NO_USE = Use(0)


class _Blocks:
    """`hashes`: block -> number of the use that touched it last, in that order. (A dict keeps the order in which keys
    were put in, and is quicker than an OrderedDict as long as its first ones are taken out many at a time.)"""

    __slots__ = ("evicted_tokens", "generation", "hashes", "pending", "tells", "told_of_evictions", "uses")

    def __init__(self, generation: tuple[int, int]) -> None:
        self.generation = generation
        self.hashes: dict[int, int] = {}
        self.pending: OrderedDict[int, None] = OrderedDict()
        self.uses = 0
        self.tells = False
        self.evicted_tokens = 0
        self.told_of_evictions = False


class PrefixIndex:
    """Blocks believed to be in each engine's prefix cache. Bounded for one engine and in all.

    Kept twice: by engine, least recently used first, and by block, as the machines that hold it. A look-up walks the
    prompt's blocks through the second: its cost depends on the machines that hold some of the prompt, not on the size
    of the pool. Who holds a block holds all before it, since the ends of prefixes are forgotten first.
    """

    def __init__(self, blocks_max: int, blocks_total_max: int, tokens_per_block: int = TOKENS_PER_BLOCK) -> None:
        self._blocks_max = blocks_max
        self._tokens_per_block = max(1, tokens_per_block)
        self._blocks_total_max = blocks_total_max
        self._engines: OrderedDict[EngineKey, _Blocks] = OrderedDict()
        self._holders: dict[str, dict[int, list[NodeId]]] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def matches(self, model: str, hashes: tuple[int, ...]) -> Depths:
        """Which machines know how much of these blocks. Who holds a block is taken to hold all before it: for hashes
        that are no chain the counts are not exact."""
        holders = self._holders.get(model)
        if holders is None or not hashes:
            return []
        hashes = hashes[:BLOCKS_MAX]
        found: Depths = []
        holding: Sequence[NodeId] = ()
        depth = count = 0
        whole = holders.get(hashes[-1], holding)
        for each in hashes:
            still = holders.get(each)
            if still is None:
                break
            if len(still) != count:
                if depth:
                    found.append((depth, holding))
                count = len(still)
                if count == len(whole):
                    # Those who hold the last block, and nobody else, hold all from here on.
                    holding, depth = whole, len(hashes)
                    break
            holding = still
            depth += 1
        if depth:
            found.append((depth, holding))
        return found

    def held_blocks(self, node_id: NodeId, model: str, generation: tuple[int, int]) -> int:
        """All blocks known of one engine. One of another generation is forgotten: its cache is gone."""
        engine = self._engines.get((node_id, model))
        if engine is None:
            return 0
        if engine.generation != generation:
            self._forget((node_id, model))
            return 0
        return len(engine.hashes)

    def add(
        self, node_id: NodeId, model: str, generation: tuple[int, int], hashes: tuple[int, ...], capacity_blocks: int
    ) -> Use:
        """An ask with these blocks was assigned there. `capacity_blocks`: what the engine can hold; 0: unknown."""
        if not hashes:
            return NO_USE
        key = (node_id, model)
        engine = self._engines.get(key)
        if engine is None or engine.generation != generation:
            self._forget(key)
            engine = self._engines[key] = _Blocks(generation)
        self._engines.move_to_end(key)
        holders = self._holders.get(model)
        if holders is None:
            holders = self._holders[model] = {}
        known, before = engine.hashes, len(engine.hashes)
        engine.uses = number = engine.uses + 1
        found = 0
        # Deepest block first, so that the oldest entries are always the ends of prefixes, never their beginnings.
        for each in reversed(hashes[:BLOCKS_MAX]):
            last = known.pop(each, 0)
            known[each] = number
            if last:
                found = found or last
            elif each in holders:
                holders[each].append(node_id)
            else:
                holders[each] = [node_id]
        use = Use(number, 0 if found in engine.pending else found)
        engine.pending[number] = None
        if len(engine.pending) > PENDING_MAX:
            engine.pending.popitem(last=False)
        self._total += len(known) - before
        highest = min(self._blocks_max, capacity_blocks) if capacity_blocks else self._blocks_max
        if len(known) > highest:
            self._forget_oldest(key, engine, len(known) - highest)
        while self._total > self._blocks_total_max and len(self._engines) > 1:
            self._forget(next(iter(self._engines)))
        return use

    def ended(self, key: EngineKey, generation: tuple[int, int], use: Use, hit: bool | None = None) -> None:
        """The answer to that prompt has ended. `hit`: whether the engine had the part that was believed to be there;
        None: it did not tell, or nothing was. A miss counts only of an engine that has told of a hit before."""
        engine = self._engines.get(key)
        if engine is None or engine.generation != generation:
            return
        engine.pending.pop(use.number, None)
        if hit:
            engine.tells = True
        elif hit is False and engine.tells and use.found:
            self._forget_until(key, engine, use.found)

    def evicted(self, key: EngineKey, generation: tuple[int, int], evicted_tokens: int, held_blocks: int) -> None:
        """The engine told how much it has let go of since it started, and how much it holds: what is believed of it
        loses its share of that, oldest first. `held_blocks` is in blocks of this index; 0: not told."""
        engine = self._engines.get(key)
        if engine is None or engine.generation != generation:
            return
        since, engine.evicted_tokens = evicted_tokens - engine.evicted_tokens, evicted_tokens
        if since <= 0 or not engine.told_of_evictions:
            engine.told_of_evictions = True
            return
        # Of what the cache held before, so much was ours.
        evicted_blocks = since // self._tokens_per_block
        share = min(1.0, len(engine.hashes) / max(1, held_blocks + evicted_blocks))
        self._forget_oldest(key, engine, round(evicted_blocks * share))

    def _forget_until(self, key: EngineKey, engine: _Blocks, number: int) -> None:
        """What was used for the last time then or earlier."""
        count = 0
        for used in engine.hashes.values():
            if used > number:
                break
            count += 1
        self._forget_oldest(key, engine, count)

    def _forget_oldest(self, key: EngineKey, engine: _Blocks, count: int) -> None:
        for block in list(islice(engine.hashes, count)):
            del engine.hashes[block]
            self._let_go(key, block)
            self._total -= 1

    def keep_only(self, nodes: Collection[NodeId]) -> None:
        """Forget machines that have left."""
        for key in [key for key in self._engines if key[0] not in nodes]:
            self._forget(key)

    def _let_go(self, key: EngineKey, block: int) -> None:
        holders = self._holders[key[1]]
        left = holders[block]
        if len(left) > 1:
            left.remove(key[0])
            return
        del holders[block]
        if not holders:
            del self._holders[key[1]]

    def _forget(self, key: EngineKey) -> None:
        engine = self._engines.pop(key, None)
        if engine is None:
            return
        for block in engine.hashes:
            self._let_go(key, block)
        self._total -= len(engine.hashes)
