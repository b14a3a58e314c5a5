"""Rare questions between machines (a decision record, say): asked once, answered once, or given up on.

Not here: what is asked (whoever registers a handler).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from covey_mesh.core.messages import Query, QueryReply
from covey_mesh.core.names import NodeId
from covey_mesh.core.ports import QueryHandler, SlowQueryHandler

QUERIES_MAX = 1024
"""Questions awaiting an answer; the next one is answered with None at once."""

QUERY_BYTES_MAX = 4 * 1024 * 1024
"""Largest payload either way; a larger answer counts as not found."""

SLOW_ANSWERS_MAX = 64
"""Answers that take time and are under way here; the next question is answered with "not found" at once."""

SendQuery = Callable[[NodeId, Query | QueryReply], bool]


class Queries:
    """Both sides of asking. Everything runs on the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, send: SendQuery) -> None:
        self._loop = loop
        self._send = send
        self._handlers: dict[str, QueryHandler] = {}
        self._slow_handlers: dict[str, SlowQueryHandler] = {}
        self._slow_answers = 0
        self._stopped = False
        self._waiting: dict[int, tuple[NodeId, asyncio.Future[bytes | None]]] = {}
        self._last_id = 0

    def answer(self, kind: str, handler: QueryHandler) -> None:
        """Questions of this kind go to `handler`; one handler a kind."""
        self._check_free(kind)
        self._handlers[kind] = handler

    def answer_later(self, kind: str, handler: SlowQueryHandler) -> None:
        """As `answer`, for answers that take time."""
        self._check_free(kind)
        self._slow_handlers[kind] = handler

    def _check_free(self, kind: str) -> None:
        assert kind not in {*self._handlers, *self._slow_handlers}, f"two handlers for queries of kind {kind}"

    async def ask(self, node_id: NodeId, kind: str, payload: bytes, timeout_s: float) -> bytes | None:
        """None when not found, unreachable or late."""
        if len(self._waiting) >= QUERIES_MAX or len(payload) > QUERY_BYTES_MAX:
            return None
        self._last_id += 1
        query_id, future = self._last_id, self._loop.create_future()
        self._waiting[query_id] = (node_id, future)
        timer = self._loop.call_later(timeout_s, self._settle, query_id, None)
        try:
            if not self._send(node_id, Query(query_id, kind, payload)):
                return None
            answer: bytes | None = await future
            return answer
        finally:
            timer.cancel()
            self._waiting.pop(query_id, None)

    def reply_to(self, sender: NodeId, query: Query) -> None:
        """A question arrived."""
        slow = self._slow_handlers.get(query.kind)
        if slow is not None and self._slow_answers < SLOW_ANSWERS_MAX:
            self._slow_answers += 1
            slow(sender, query.payload, self._once(sender, query.query_id))
            return
        handler = self._handlers.get(query.kind)
        self._reply(sender, query.query_id, handler(query.payload) if handler is not None else None)

    def _once(self, sender: NodeId, query_id: int) -> Callable[[bytes | None], None]:
        """What a slow handler replies through; a second reply is our bug."""
        replied = False

        def reply(found: bytes | None) -> None:
            nonlocal replied
            assert not replied, "two replies to one question"
            replied = True
            self._slow_answers -= 1
            if not self._stopped:
                self._reply(sender, query_id, found)

        return reply

    def _reply(self, sender: NodeId, query_id: int, found: bytes | None) -> None:
        if found is not None and len(found) > QUERY_BYTES_MAX:
            found = None
        self._send(sender, QueryReply(query_id, found is not None, found or b""))

    def take_reply(self, sender: NodeId, reply: QueryReply) -> None:
        """An answer arrived; one from a machine that was not asked, or a second one, is ignored."""
        asked = self._waiting.get(reply.query_id)
        if asked is not None and asked[0] == sender:
            self._settle(reply.query_id, reply.payload if reply.found else None)

    def peer_lost(self, node_id: NodeId) -> None:
        """Nobody there will answer."""
        for query_id in [query_id for query_id, (peer, _) in self._waiting.items() if peer == node_id]:
            self._settle(query_id, None)

    def stop(self) -> None:
        self._stopped = True
        for query_id in list(self._waiting):
            self._settle(query_id, None)

    def _settle(self, query_id: int, answer: bytes | None) -> None:
        waiting = self._waiting.get(query_id)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(answer)
