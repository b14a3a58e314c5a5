"""What a conversation is made of; shared by the files that draw turns."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tools.demo_models import stories

Message = dict[str, Any]
"""One message in OpenAI's format."""

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass
class Memory:
    """What was said so far in one conversation and may be asked for later."""

    user_name: str | None = None
    story: stories.Story | None = None


Draw = Callable[[random.Random, Memory], Turn]
"""Draws one turn; what must be remembered is written to the memory."""
