"""What clients ask: kinds of requests, and mixes of them. Bodies only; who sends them is load.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.real_agents import SHARED_MODEL

from covey.demo.pool import CHAT_MODEL

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
    grpc: bool = False
    """Over covey.v1.Inference; else over HTTP."""
    more: tuple[tuple[str, Any], ...] = ()
    served_model: str = SHARED_MODEL
    prompts: tuple[str, ...] = ()
    """In the place of made-up ones."""

    def model(self, entry: str) -> str:
        """What to ask for at the gateway of the host named `entry`."""
        return far_model(entry) if self.far else self.served_model

    def prompt(self, prompt_number: int) -> str:
        """`prompt_number` is below PROMPTS_A_KIND."""
        if self.prompts:
            return self.prompts[prompt_number]
        words = " ".join(f"word{number}" for number in range(self.prompt_words))
        return f"{self.name} question {prompt_number} about {words}"

    def body(self, model: str, prompt_number: int) -> dict[str, Any]:
        """Of the HTTP request."""
        prompt = self.prompt(prompt_number)
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


SIMULATED_KINDS = _kinds(
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
    Kind("grpc-chat-stream", CHAT, True, 48, grpc=True),
    Kind("grpc-text", COMPLETIONS, False, 24, grpc=True),
    Kind("grpc-chat", CHAT, False, 32, grpc=True),
    Kind("grpc-far-stream", COMPLETIONS, True, 30, far=True, grpc=True),
    Kind("grpc-far-long", CHAT, True, 150, far=True, grpc=True),
    Kind("grpc-far-text", COMPLETIONS, True, 100, far=True, grpc=True),
    Kind("grpc-far-slow-start", CHAT, True, 12, prompt_words=3000, far=True, grpc=True),
    Kind("grpc-unsound", CHAT, True, 48, sound=False, grpc=True, more=(("response_format", {"type": "json_object"}),)),
)
_GREEDY: dict[str, Any] = {"served_model": CHAT_MODEL, "more": (("temperature", 0.0),)}
_STORIES = tuple(f"Tell me a story about a {hero}." for hero in ("fox", "girl", "dog"))
_BEGINNINGS = ("Once upon a time", "One day, a little girl", "There was a dog")
VLLM_KINDS = _kinds(
    Kind("vllm-chat", CHAT, True, 120, prompts=_STORIES, **_GREEDY),
    Kind("vllm-text", COMPLETIONS, True, 120, prompts=_BEGINNINGS, **_GREEDY),
    Kind("vllm-whole", CHAT, False, 60, prompts=_STORIES, **_GREEDY),
    Kind("vllm-grpc-chat", CHAT, True, 120, grpc=True, prompts=_STORIES, **_GREEDY),
    Kind("vllm-grpc-text", COMPLETIONS, False, 60, grpc=True, prompts=_BEGINNINGS, **_GREEDY),
)
KINDS = {**SIMULATED_KINDS, **VLLM_KINDS}
FAR_KINDS = frozenset(kind.name for kind in KINDS.values() if kind.far)

MIXES: dict[str, tuple[str, ...]] = {
    # One client each, at every gateway.
    "usual": (
        *("chat-stream", "text-stream", "chat-whole", "unsound-stream", "far-stream", "far-whole"),
        *("grpc-chat-stream", "grpc-text", "grpc-far-stream"),
    ),
    "failover": ("chat-stream", "text-stream", "chat-whole", "far-stream"),
    "before-first-token": ("far-slow-start", "grpc-far-slow-start", "slow-start", "grpc-chat", "far-whole"),
    "mid-stream": (
        *("far-long", "far-text", "far-stream", "long-stream", "unsound-stream"),
        *("grpc-far-long", "grpc-far-text", "grpc-unsound"),
    ),
    "vllm": tuple(VLLM_KINDS),
}


MODEL = SHARED_MODEL
"""Served by all."""


def models(host: str) -> list[str]:
    """What the host with this name (h1, h2, ...) serves: half of the machines one far model, half the other."""
    return [SHARED_MODEL, "even" if int(host[1:]) % 2 == 0 else "odd", f"only-{host}"]


def far_model(host: str) -> str:
    """What it does not serve."""
    return "odd" if int(host[1:]) % 2 == 0 else "even"
