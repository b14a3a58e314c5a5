"""When the prompts of answers that come in one piece were computed: nobody is told, so by what they should take.

It says that something was computed beside a sample of a speed, for about how long; no speed is learned from it.
Not here: which prompts are long, and what they should take (meter.py).
"""

from __future__ import annotations


class PromptLine:
    """One prompt after the other, in the order in which the engine was given them. Seconds."""

    __slots__ = ("_given_s", "_streamed_until_s", "_whole_until_s")

    def __init__(self) -> None:
        self._given_s = 0.0
        self._whole_until_s = 0.0
        self._streamed_until_s = 0.0

    def add_streamed(self, expected_s: float, now_s: float) -> None:
        """A prompt was given whose first token will be heard of: it only delays the others."""
        self._streamed_until_s = max(now_s, self._streamed_until_s) + expected_s
        if self._whole_until_s > now_s:
            self._whole_until_s += expected_s

    def add_whole(self, expected_s: float, now_s: float) -> None:
        """A prompt was given that should take so long, of an answer in one piece."""
        self._given_s += expected_s
        self._whole_until_s = max(now_s, self._streamed_until_s, self._whole_until_s) + expected_s

    def whole_s(self, now_s: float) -> float:
        """Seconds so far in which prompts of answers in one piece were computed: those given less those left. Of a
        moment in which one waits it may be a little less than before."""
        left_s = self._whole_until_s - now_s
        return self._given_s - left_s if left_s > 0.0 else self._given_s
