"""Which machine has seen which prompt before: chained block hashes, and an index of them.

The hash of block i covers blocks 0..i, so equal hashes mean equal prefixes, as in vLLM's automatic prefix caching;
blocks are bytes, not tokens, because no tokenizer runs here. The index is fed by assignments and forgets like the
engine's own cache: least recently used first, all at once when the engine or its machine has restarted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from hashlib import blake2b

from covey_mesh.core.names import NodeId

BLOCK_BYTES = 512
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


class _Blocks:
    __slots__ = ("bit", "generation", "hashes", "key")

    def __init__(self, key: EngineKey, generation: tuple[int, int], bit: int) -> None:
        self.key, self.generation, self.bit = key, generation, bit
        self.hashes: OrderedDict[int, None] = OrderedDict()


class PrefixIndex:
    """Blocks believed to be in each engine's prefix cache. Bounded for one engine and in all.

    Kept twice: by engine, least recently used first, and by block, as the set of engines that hold it (bits of a
    number). A look-up follows the prompt's blocks through the second: its cost depends on the engines that hold some
    of the prompt, not on the size of the pool.
    """

    def __init__(self, blocks_max: int, blocks_total_max: int) -> None:
        self._blocks_max = blocks_max
        self._blocks_total_max = blocks_total_max
        self._engines: OrderedDict[EngineKey, _Blocks] = OrderedDict()
        self._by_bit: dict[int, _Blocks] = {}
        self._free_bits: list[int] = []
        self._holders: dict[tuple[str, int], int] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def matches(self, model: str, hashes: tuple[int, ...]) -> list[tuple[NodeId, tuple[int, int], int]]:
        """(machine, generation, blocks) for each engine that knows a prefix of these blocks."""
        found: list[tuple[NodeId, tuple[int, int], int]] = []
        holding = 0
        for depth, each in enumerate(hashes[:BLOCKS_MAX]):
            holders = self._holders.get((model, each), 0)
            still = holders & holding if depth else holders
            if still != holding and depth:
                self._collect(holding & ~still, depth, found)
            holding = still
            if not holding:
                return found
        self._collect(holding, min(len(hashes), BLOCKS_MAX), found)
        return found

    def matched_blocks(self, node_id: NodeId, model: str, generation: tuple[int, int], hashes: tuple[int, ...]) -> int:
        """Length of the longest known prefix, in blocks; 0 for an engine of another generation."""
        found = (blocks for node, life, blocks in self.matches(model, hashes) if (node, life) == (node_id, generation))
        return next(found, 0)

    def held_blocks(self, node_id: NodeId, model: str) -> int:
        """All blocks known of one engine."""
        engine = self._engines.get((node_id, model))
        return 0 if engine is None else len(engine.hashes)

    def add(
        self, node_id: NodeId, model: str, generation: tuple[int, int], hashes: tuple[int, ...], capacity_blocks: int
    ) -> None:
        """An ask with these blocks was assigned there. `capacity_blocks`: what the engine can hold; 0: unknown."""
        if not hashes:
            return
        key = (node_id, model)
        engine = self._engines.get(key)
        if engine is None or engine.generation != generation:
            self._forget(key)
            engine = self._new_engine(key, generation)
        self._engines.move_to_end(key)
        before = len(engine.hashes)
        # Deepest block first, so that the oldest entries are always the ends of prefixes, never their beginnings.
        for each in reversed(hashes[:BLOCKS_MAX]):
            if each in engine.hashes:
                engine.hashes.move_to_end(each)
            else:
                engine.hashes[each] = None
                self._holders[model, each] = self._holders.get((model, each), 0) | engine.bit
        highest = min(self._blocks_max, capacity_blocks) if capacity_blocks else self._blocks_max
        while len(engine.hashes) > highest:
            self._let_go(engine, engine.hashes.popitem(last=False)[0])
        self._total += len(engine.hashes) - before
        while self._total > self._blocks_total_max and len(self._engines) > 1:
            self._forget(next(iter(self._engines)))

    def keep_only(self, nodes: Collection[NodeId]) -> None:
        """Forget machines that have left."""
        for key in [key for key in self._engines if key[0] not in nodes]:
            self._forget(key)

    def _new_engine(self, key: EngineKey, generation: tuple[int, int]) -> _Blocks:
        bit = self._free_bits.pop() if self._free_bits else 1 << len(self._by_bit)
        engine = self._engines[key] = self._by_bit[bit] = _Blocks(key, generation, bit)
        return engine

    def _collect(self, bits: int, blocks: int, found: list[tuple[NodeId, tuple[int, int], int]]) -> None:
        while bits:
            bit = bits & -bits
            engine = self._by_bit[bit]
            found.append((engine.key[0], engine.generation, blocks))
            bits ^= bit

    def _let_go(self, engine: _Blocks, block: int) -> None:
        place = (engine.key[1], block)
        left = self._holders[place] & ~engine.bit
        if left:
            self._holders[place] = left
        else:
            del self._holders[place]

    def _forget(self, key: EngineKey) -> None:
        engine = self._engines.pop(key, None)
        if engine is None:
            return
        for block in engine.hashes:
            self._let_go(engine, block)
        self._total -= len(engine.hashes)
        del self._by_bit[engine.bit]
        self._free_bits.append(engine.bit)
