"""What clients ask: kinds of requests, and mixes of them. Bodies only; who sends them is load.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.real_agents import SHARED_MODEL

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PREFILL_TOKENS_PER_S = 4000
DECODE_TOKENS_PER_S = 60
PROMPTS_A_KIND = 3
"""Few, so that what an undisturbed pool answers to each can be asked beforehand."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of request. `sound`: a broken answer may be continued elsewhere (see the gateway's continuation)."""

    name: str
    path: str
    stream: bool
    max_tokens: int
    prompt_words: int = 8
    sound: bool = True
    far: bool = False
    """Asks for a model that other machines have and the gateway's own has not."""
    more: tuple[tuple[str, Any], ...] = ()

    def model(self, entry: str) -> str:
        """What to ask for at the gateway of the host named `entry`."""
        return far_model(entry) if self.far else SHARED_MODEL

    def body(self, model: str, prompt_number: int) -> dict[str, Any]:
        """`prompt_number` is below PROMPTS_A_KIND."""
        words = " ".join(f"word{number}" for number in range(self.prompt_words))
        prompt = f"{self.name} question {prompt_number} about {words}"
        asked = {"messages": [{"role": "user", "content": prompt}]} if self.path == CHAT else {"prompt": prompt}
        usage = {"stream_options": {"include_usage": True}} if self.stream else {}
        return {
            "model": model,
            **asked,
            "max_tokens": self.max_tokens,
            "stream": self.stream,
            **usage,
            **dict(self.more),
        }


def _kinds(*kinds: Kind) -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds}


KINDS = _kinds(
    Kind("chat-stream", CHAT, True, 48),
    Kind("text-stream", COMPLETIONS, True, 40),
    Kind("chat-whole", CHAT, False, 32),
    Kind("text-whole", COMPLETIONS, False, 24),
    # Most of a second until the first token; until then the engine's other streams wait, as in a real one.
    Kind("slow-start", CHAT, True, 12, prompt_words=3000),
    Kind("long-stream", CHAT, True, 180),
    # A grammar cannot be entered in the middle: such an answer is never continued.
    Kind("unsound-stream", CHAT, True, 48, sound=False, more=(("response_format", {"type": "json_object"}),)),
    Kind("far-stream", CHAT, True, 30, far=True),
    Kind("far-long", CHAT, True, 150, far=True),
    Kind("far-text", COMPLETIONS, True, 100, far=True),
    Kind("far-slow-start", CHAT, True, 12, prompt_words=3000, far=True),
    Kind("far-whole", CHAT, False, 24, far=True),
    Kind("short", CHAT, True, 1),
)
FAR_KINDS = frozenset(kind.name for kind in KINDS.values() if kind.far)

MIXES: dict[str, tuple[str, ...]] = {
    # One client each, at every gateway.
    "usual": (
        *("chat-stream", "text-stream", "chat-whole", "text-whole"),
        *("unsound-stream", "far-stream", "far-whole"),
    ),
    "failover": ("chat-stream", "text-stream", "chat-whole", "far-stream"),
    "before-first-token": ("far-slow-start", "far-slow-start", "slow-start", "chat-whole", "far-whole"),
    "mid-stream": ("far-long", "far-long", "far-text", "far-text", "far-stream", "long-stream", "unsound-stream"),
}


MODEL = SHARED_MODEL
"""Served by all."""


def models(host: str) -> list[str]:
    """What the host with this name (h1, h2, ...) serves: half of the machines one far model, half the other."""
    return [SHARED_MODEL, "even" if int(host[1:]) % 2 == 0 else "odd", f"only-{host}"]


def far_model(host: str) -> str:
    """What it does not serve."""
    return "odd" if int(host[1:]) % 2 == 0 else "even"
