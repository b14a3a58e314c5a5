"""The Engine port: one model served by one engine, whatever runs it.

Two adapters pass one contract suite (tests/contract): vLLM in a process of its own (covey_node.io.vllm) and a
simulated engine (covey_node.io.simulated), which is named as such wherever a user can see it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from covey_mesh.core.exchange import ForwardedRequest, ResponseSink, Upstream
from covey_mesh.core.facts import Task


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a ready engine says of itself. `kind` is "vllm" or "simulated"."""

    kind: str
    model: str
    task: Task
    max_context_tokens: int
    kv_cache_tokens: int
    running_limit: int


class EngineStartError(Exception):
    """The engine did not become ready; the message holds its last lines and what to do next."""


class Engine(Protocol):
    """One start-to-stop life. Supervision (restart, backoff) is outside: covey_node.io.supervisor."""

    async def start(self, progress: Callable[[str], None]) -> EngineInfo:
        """Returns once the engine has answered a request; raises EngineStartError."""

    def open(self, request: ForwardedRequest, sink: ResponseSink) -> Upstream:
        """One attempt, by the rules of covey_mesh.core.exchange."""

    async def stop(self, grace_s: float) -> None:
        """Let requests in flight finish for `grace_s`, then end them. Leaves no process. Safe to call twice."""

    async def wait_died(self) -> str:
        """Returns the cause when the engine ends without `stop`."""

    async def cached_tokens_free(self) -> int | None:
        """KV-cache tokens free right now, where the engine can say."""
