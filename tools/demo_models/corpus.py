"""The text that the chat model is trained on: conversations, tool calls, bare stories, and docstrings, mixed.

Deterministic: the same seed and the same Python version give the same documents in the same order.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tools.demo_models import chats, docstrings, stories, tool_calls

CHAT_TEMPLATE_PATH = Path(__file__).with_name("chat_template.jinja")
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Mix:
    """Shares of the kinds of documents; they need not add up to one."""

    chats: float = 0.56
    tool_calls: float = 0.34
    stories: float = 0.05
    docstrings: float = 0.05
    docstring_characters_max: int = 800_000


@dataclass(frozen=True)
class Corpus:
    """Draws documents, as the text that the model sees."""

    seed: int = 0
    mix: Mix = field(default_factory=Mix)

    def documents(self) -> Iterator[str]:
        """The documents of this seed, without end."""
        rng = random.Random(self.seed)
        prose = docstrings.paragraphs(self.mix.docstring_characters_max)
        weights = (self.mix.chats, self.mix.tool_calls, self.mix.stories, self.mix.docstrings)
        while True:
            kind = rng.choices(("chat", "tool", "story", "docstring"), weights=weights)[0]
            if kind == "chat":
                yield render(chats.conversation(rng))
            elif kind == "tool":
                tools, messages = tool_calls.conversation(rng)
                yield render(messages, tools)
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
