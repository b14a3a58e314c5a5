"""What a machine has measured of one model's speed, as it tells others: immutable values.

Not here: measuring (covey_node.core.meter) and what follows for placement (covey_scheduler.core.standing).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

POINTS_MAX = 8
"""Of either table in a report: the best known ones."""

CALIBRATED = "calibrated"
LEARNED = "learned"
STORED = "stored"
SOURCES = ("", CALIBRATED, LEARNED, STORED)
"""Where most of it comes from: nothing yet; measured at load; from the traffic; an earlier life of the agent."""


class PrefillPoint(NamedTuple):
    """Prompts of about `prompt_tokens` that were not in the prefix cache."""

    prompt_tokens: int
    tokens_per_s: float


class DecodePoint(NamedTuple):
    """A step that gives each of `batch` streams, with `context_tokens` each on average, one token."""

    batch: int
    context_tokens: int
    step_s: float


@dataclass(frozen=True, slots=True)
class ModelSpeeds:
    """Tables are as known; the factors say what has changed a moment ago (1: nothing; above 1: slower).

    `batch_slowdown`: share by which each further stream lengthens a step; 0: not known.
    `confidence`: 0 to 1; `spread`: deviation of the observations, as a share. `measured_unix_s`: the newest one's
    time by the machine's own clock, for people.
    """

    prefill: tuple[PrefillPoint, ...] = ()
    decode: tuple[DecodePoint, ...] = ()
    batch_slowdown: float = 0.0
    load_s: float = 0.0
    source: str = ""
    confidence: float = 0.0
    observations: int = 0
    spread: float = 0.0
    measured_unix_s: float = 0.0
    prefill_factor: float = 1.0
    decode_factor: float = 1.0


UNMEASURED = ModelSpeeds()
