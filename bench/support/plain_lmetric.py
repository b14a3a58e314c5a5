"""A router that does what LMetric needs and nothing else: what one decision costs at least (bench/decision_cost.py).

LMetric (arXiv 2603.15202) sends a request where prompt tokens to compute x batch is lowest. So it hashes the prompt's
blocks, looks them up in what it knows of each machine's prefix cache, multiplies, picks, and remembers the request and
its blocks until it has ended. Left out is what covey's leader does beside that: filters with reasons, a fair queue,
late binding, predictions in seconds, reservations that end by themselves, a record of the decision.
"""

from __future__ import annotations

from collections import OrderedDict

from covey_scheduler.core.prefix import prefix_hashes

BLOCKS_MAX = 2048
"""Blocks remembered of one machine, as in covey's index."""


class _Machine:
    __slots__ = ("batch", "known", "pending_tokens")

    def __init__(self, batch: int, pending_tokens: int) -> None:
        self.batch, self.pending_tokens = batch, pending_tokens
        self.known: OrderedDict[int, None] = OrderedDict()


class PlainLMetric:
    """`machines`: (requests running, prompt tokens to compute) of each."""

    def __init__(self, machines: list[tuple[int, int]], tokens_per_block: int) -> None:
        self._machines = [_Machine(batch, pending) for batch, pending in machines]
        self._tokens_per_block = tokens_per_block
        self._inflight: dict[str, tuple[int, int]] = {}

    def decide(self, request_id: str, prompt: bytes, prompt_tokens: int) -> int:
        """The number of the machine; it counts the request until `ended`."""
        hashes = prefix_hashes(prompt)
        best, lowest, tokens = -1, float("inf"), 0
        for number, machine in enumerate(self._machines):
            known, matched = machine.known, 0
            for each in hashes:
                if each not in known:
                    break
                matched += 1
            new = max(1, prompt_tokens - matched * self._tokens_per_block)
            cost = (machine.pending_tokens + new) * (machine.batch + 1)
            if cost < lowest:
                best, lowest, tokens = number, cost, new
        self._assign(request_id, best, tokens, hashes)
        return best

    def ended(self, request_id: str) -> None:
        number, tokens = self._inflight.pop(request_id)
        self._machines[number].batch -= 1
        self._machines[number].pending_tokens -= tokens

    def _assign(self, request_id: str, number: int, tokens: int, hashes: tuple[int, ...]) -> None:
        machine = self._machines[number]
        machine.batch += 1
        machine.pending_tokens += tokens
        self._inflight[request_id] = (number, tokens)
        known = machine.known
        for each in reversed(hashes):
            known[each] = None
            known.move_to_end(each)
        while len(known) > BLOCKS_MAX:
            known.popitem(last=False)
