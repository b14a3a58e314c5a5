"""What one client saw of one request, as plain facts; it crosses from the load's process as a JSON line.

Times are Unix seconds: everything of a lab runs on one machine, agents' logs included. Not here: what it means
(judging.py).
"""

from __future__ import annotations

import dataclasses
import enum
import json
import time
from dataclasses import dataclass


class MalformedError(Exception):
    """The peer broke the protocol of the answer."""


class Ended(enum.Enum):
    """How the answer ended."""

    UNREACHABLE = "no connection to the gateway"
    REFUSED = "an HTTP error"
    FINISHED = "a whole answer, or a stream's finish and [DONE]"
    ERROR_EVENT = "an error event, and nothing after it"
    CUT = "the connection ended before the answer did"
    SILENT = "nothing more came for too long"
    MALFORMED = "something that is not an answer"


@dataclass(slots=True)
class Observation:
    """`text` is what was delivered; `gap_s` the longest time between two pieces of a stream, `gap_at_s` its end.

    `machine` is who served first, `last_piece_s` when the last piece of a stream came.
    """

    kind: str
    entry: str
    model: str
    prompt_number: int
    started_s: float
    ended: Ended = Ended.UNREACHABLE
    ended_s: float = 0.0
    status: int = 0
    detail: str = ""
    code: str = ""
    retry_after: str = ""
    request_id: str = ""
    machine: str = ""
    why: str = ""
    attempts: int = 0
    continued: int = 0
    text: str = ""
    finishes: int = 0
    output_tokens: int | None = None
    first_token_s: float | None = None
    gap_s: float = 0.0
    gap_at_s: float = 0.0
    last_piece_s: float = 0.0

    def note_piece(self, piece: str) -> None:
        """The next text of a stream came now. Raises MalformedError after the finish."""
        if self.finishes:
            raise MalformedError(f"text after the finish: {piece!r}")
        now_s = time.time()
        if self.first_token_s is None:
            self.first_token_s = now_s - self.started_s
        elif now_s - self.last_piece_s > self.gap_s:
            self.gap_s, self.gap_at_s = now_s - self.last_piece_s, now_s
        self.last_piece_s = now_s
        self.text += piece

    def as_line(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "ended": self.ended.name})


def from_line(line: str) -> Observation:
    """The reverse of `as_line`."""
    values = json.loads(line)
    return Observation(**{**values, "ended": Ended[values["ended"]]})
