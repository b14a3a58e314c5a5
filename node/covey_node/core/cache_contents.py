"""What an engine's prefix cache holds, from the engine's own events: how much, and how much it has let go of.

The engine names blocks by hashes of its own, of tokens; nobody here can tell which prompt they are of. What counts is
how many there are and how many were evicted: a cache that lets go in order of use has lost the oldest ones.

Not here: receiving the events (covey_node.io.cache_events), and what follows for placement (covey_scheduler).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

BLOCKS_MAX = 262_144
"""Of one engine (4 million tokens in blocks of 16); beyond that nothing is counted any more."""


class CacheContents:
    """`held_tokens` now; `evicted_tokens` since the engine started, what was cleared included; `prompt_tokens`: those
    of prompts that were computed and stored since then. All 0 and `known` False once an event was missed: nobody can
    tell any more, and other signs have to do."""

    def __init__(self) -> None:
        self.known = True
        self.evicted_tokens = 0
        self.prompt_tokens = 0
        self._block_tokens: dict[Hashable, int] = {}
        self._held_tokens = 0

    @property
    def held_tokens(self) -> int:
        return self._held_tokens

    def stored(self, hashes: Iterable[Hashable], block_tokens: int, begins: bool = False) -> None:
        """Blocks of so many tokens each; one that is there already counts once. `begins`: nothing stands before them.

        An answer fills its blocks one at a time: several at once, or a beginning, are a prompt's.
        """
        if not self.known or block_tokens <= 0:
            return
        new = [each for each in hashes if each not in self._block_tokens]
        self._block_tokens.update(dict.fromkeys(new, block_tokens))
        tokens = block_tokens * len(set(new))
        self._held_tokens += tokens
        if begins or len(new) > 1:
            self.prompt_tokens += tokens
        if len(self._block_tokens) > BLOCKS_MAX:
            self.lost()

    def removed(self, hashes: Iterable[Hashable]) -> None:
        """Blocks that nobody told of before are passed over."""
        for each in hashes:
            tokens = self._block_tokens.pop(each, 0)
            self._held_tokens -= tokens
            self.evicted_tokens += tokens

    def cleared(self) -> None:
        """All of it."""
        self.evicted_tokens += self._held_tokens
        self._held_tokens = 0
        self._block_tokens.clear()

    def lost(self) -> None:
        """An event was missed."""
        self.known = False
        self.evicted_tokens = self._held_tokens = self.prompt_tokens = 0
        self._block_tokens.clear()
