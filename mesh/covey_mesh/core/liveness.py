"""Whether one link carries both ways, and how long it takes: questions (heartbeat tokens), answers, silence.

Asks only when nothing was heard for a while, so a busy link costs nothing and an idle one little. Not here: what the
link is for (membership.py), how often that deserves a question (timing.py).
"""

from __future__ import annotations

import enum

from covey_mesh.core.timing import Timing

NEVER = float("inf")


class Finding(enum.Enum):
    """What a check of a link found."""

    FINE = "fine"
    ASK = "ask: nothing was heard for a while"
    SILENT = "silent: a question is unanswered and nothing is heard"


class LinkLiveness:
    """One link's signs of life, by this machine's clock."""

    __slots__ = ("_asked", "_timing", "_token", "heard_at_s", "round_trip_s")

    def __init__(self, now_s: float, timing: Timing) -> None:
        self._timing = timing
        self.heard_at_s = now_s
        self.round_trip_s = 0.0
        self._token = 0
        self._asked: dict[int, float] = {}

    def ask(self, now_s: float) -> int:
        """A new token to send. At most deaf_deadline_s / link_heartbeat_s are unanswered at a time."""
        self._token += 1
        self._asked[self._token] = now_s
        return self._token

    def answered(self, now_s: float, echo: int) -> None:
        """A token came back: it and all before it are answered. Foreign and repeated ones prove nothing."""
        asked_s = self._asked.get(echo)
        if asked_s is None:
            return
        self.round_trip_s = max(0.0, now_s - asked_s)
        for token in [token for token in self._asked if token <= echo]:
            del self._asked[token]

    def forgive(self, now_s: float) -> None:
        """This machine stalled: what it did not hear meanwhile is nobody's fault."""
        self.heard_at_s = max(self.heard_at_s, now_s)
        self._asked = dict.fromkeys(self._asked, now_s)

    def fresh(self, now_s: float) -> bool:
        """Recently proven to carry both ways, or not in doubt."""
        return now_s < self._unanswered_since_s() + self._timing.fresh_window_s

    def check(self, now_s: float, ask_after_s: float) -> Finding:
        """`ask_after_s`: how long this link may be quiet."""
        if now_s >= self._silent_at_s():
            return Finding.SILENT
        return Finding.ASK if now_s >= self._ask_at_s(ask_after_s) else Finding.FINE

    def due_s(self, now_s: float, ask_after_s: float) -> float:
        """When `check` may find something, or `fresh` may change, if nothing is heard until then."""
        due_s = min(self._silent_at_s(), self._ask_at_s(ask_after_s))
        return min(due_s, self._unanswered_since_s() + self._timing.fresh_window_s) if self.fresh(now_s) else due_s

    def _unanswered_since_s(self) -> float:
        return next(iter(self._asked.values()), NEVER)

    def _ask_at_s(self, ask_after_s: float) -> float:
        if not self._asked:
            return self.heard_at_s + ask_after_s
        return self._asked[self._token] + self._timing.link_heartbeat_s

    def _silent_at_s(self) -> float:
        since_s = self._unanswered_since_s()
        silent_s = max(since_s, self.heard_at_s) + self._timing.answer_deadline_s
        return min(silent_s, since_s + self._timing.deaf_deadline_s) if self._asked else NEVER
