"""How fast one user's requests may follow each other to a machine while this gateway decides alone.

Without a leader, or while it is too busy to answer, nothing but the machines' own lines would hold a thousand requests
of one user; the next user's single one would stand behind them there for many seconds. So who has just been given a
machine gets the next one there only when the prompts that this gateway has sent it before are nearly computed, at its
measured speed, and if other gateways send as much: the leader's own rule (covey_scheduler.core.room) as far as one
gateway can know. The rest waits here, in the fair line (waiting_line.py).
"""

from __future__ import annotations

from collections import OrderedDict

from covey_gateway.core.waiting_line import FULL_REASONS
from covey_mesh.core.asking import Ask
from covey_mesh.core.facts import PoolView
from covey_mesh.core.names import NodeId

AHEAD_S = 0.25
"""Seconds of this gateway's own prompts that a machine may have before the next one of the same user: enough to keep it
busy until the line is looked at again."""

FOLLOWS_WITHIN_S = 2.0
"""Who was given a machine so lately is no single request."""

GATEWAYS_RECKONED_MAX = 4
"""No more machines than this are taken to send as much at the same time."""

USERS_REMEMBERED_MAX = 4096
MACHINES_REMEMBERED_MAX = 4096


class AlonePace:
    """Prompts given by this gateway alone, by machine and model; users served so, by model. Bounded; the oldest go."""

    def __init__(self) -> None:
        self._done_at_s: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._served_at_s: OrderedDict[tuple[str, str], float] = OrderedDict()

    def too_fast(self, ask: Ask, now_s: float) -> dict[NodeId, str]:
        """Machines that this ask's user should not be given yet, with the reason."""
        if now_s - self._served_at_s.get((ask.model, ask.user), float("-inf")) > FOLLOWS_WITHIN_S:
            return {}
        return {
            NodeId(node_id): f"{FULL_REASONS[0]}: {done_at_s - now_s:.2f} s of this gateway's own prompts are before it"
            for (node_id, model), done_at_s in self._done_at_s.items()
            if model == ask.model and done_at_s - now_s > AHEAD_S
        }

    def given(self, ask: Ask, node_id: NodeId, view: PoolView, now_s: float) -> None:
        """This gateway alone has chosen that machine for it. One whose speed nobody knows is not paced."""
        member = view.members.get(node_id)
        load = None if member is None else member.load.model(ask.model)
        if load is None or load.prefill_tokens_per_s <= 0:
            return
        done_at_s = max(self._done_at_s.get((node_id, ask.model), now_s), now_s)
        gateways = min(GATEWAYS_RECKONED_MAX, sum(1 for each in view.members.values() if each.reachable))
        done_at_s += gateways * ask.prompt_tokens / load.prefill_tokens_per_s
        _keep(self._done_at_s, (node_id, ask.model), done_at_s, MACHINES_REMEMBERED_MAX)
        _keep(self._served_at_s, (ask.model, ask.user), now_s, USERS_REMEMBERED_MAX)


def _keep(table: OrderedDict[tuple[str, str], float], key: tuple[str, str], value: float, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
