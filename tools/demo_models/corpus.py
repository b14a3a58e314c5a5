"""The text that the chat model is trained on: conversations, tool calls, bare stories, and docstrings, mixed.

Deterministic: the same seed and the same Python version give the same documents in the same order.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tools.demo_models import chats, docstrings, exercises, stories, tool_calls
from tools.demo_models.turns import Memory

CHAT_TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of documents; they need not add up to one."""

    chats: float = 0.52
    tool_calls: float = 0.30
    copies: float = 0.10
    stories: float = 0.05
    docstrings: float = 0.05
    docstring_characters_max: int = 800_000
    copying_first: int = 5_000
    """So many documents at the start are nearly all exercises in copying: once the model can copy, names and cities in
    stories and tool calls come quickly; without them it takes many times as long."""


@dataclass(frozen=True)
class Corpus:
    """Draws documents, as the text that the model sees."""

    seed: int = 0
    mix: Mix = field(default_factory=Mix)

    def documents(self) -> Iterator[str]:
        """The documents of this seed, without end."""
        rng = random.Random(self.seed)
        mix = self.mix
        prose = docstrings.paragraphs(mix.docstring_characters_max)
        weights = (mix.chats, mix.tool_calls, mix.copies, mix.stories, mix.docstrings)
        for number in itertools.count():
            kind = rng.choices(("chat", "tool", "copy", "story", "docstring"), weights=weights)[0]
            if number < mix.copying_first and rng.random() < 0.8:
                kind = "copy"
            if kind == "chat":
                yield render(chats.conversation(rng))
            elif kind == "tool":
                tools, messages = tool_calls.conversation(rng)
                yield render(messages, tools)
            elif kind == "copy":
                question, answer = exercises.repeat_long(rng, Memory())
                yield render([{"role": "user", "content": question}, {"role": "assistant", "content": answer}])
            elif kind == "story":
                yield stories.tell(rng).text + END_OF_TEXT
            else:
                yield rng.choice(prose) + END_OF_TEXT


def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, **context: Any) -> str:
    """The messages through the chat template, as Hugging Face tokenizers and vLLM render it."""
    return _chat_template().render(messages=messages, tools=tools, **context)


@lru_cache(maxsize=1)
def _chat_template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(CHAT_TEMPLATE_PATH.read_text(encoding="utf-8"))
