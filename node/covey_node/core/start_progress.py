"""From an engine's log lines to the few words a person wants while it starts, and to the cause when it fails."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable

TAIL_LINES_MAX = 200
LINE_CHARACTERS_MAX = 2000
CAUSE_LINES = 12

_PHASES = (
    (re.compile(r"Initializing a V\d LLM engine"), "starting the engine"),
    (re.compile(r"Starting to load model"), "loading weights"),
    (re.compile(r"(?:checkpoint shards|Loading.*shards):\s+(\d+)%"), "loading weights"),
    (re.compile(r"Loading weights took"), "weights loaded"),
    (re.compile(r"Dynamo bytecode transform|Compiling a graph|torch\.compile takes"), "compiling"),
    (re.compile(r"Capturing CUDA graph|KV cache size|init engine"), "warming up"),
    (re.compile(r"Application startup complete"), "asking a first question"),
)
_NOISE = re.compile(r"Route: |^\s*$|FutureWarning|^\s+[\^~]+\s*$")
_PREFIX = re.compile(r"^\([^)]*pid=\d+\)\s+")
_CAUSE = re.compile(r"\b(\w*(?:Error|Exception)\b.*|error: .*)")


def phase(line: str) -> str | None:
    """What this line says the engine is doing; None for most lines."""
    for pattern, words in _PHASES:
        found = pattern.search(line)
        if found:
            return f"{words} ({found[1]}%)" if found.groups() and found[1] else words
    return None


class Tail:
    """The last lines an engine printed, bounded; bytes come in any pieces."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=TAIL_LINES_MAX)
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Returns the lines completed by this piece; a progress bar's carriage returns end lines too."""
        pieces = (self._rest + data).replace(b"\r", b"\n").split(b"\n")
        self._rest = pieces.pop()[-LINE_CHARACTERS_MAX:]
        lines = [piece[:LINE_CHARACTERS_MAX].decode("utf-8", "replace") for piece in pieces]
        kept = [line for line in lines if not _NOISE.search(line)]
        self._lines.extend(kept)
        return kept

    def last(self, count: int = CAUSE_LINES) -> str:
        """The last lines, for an error message."""
        return "\n".join(list(self._lines)[-count:])

    def cause(self) -> str:
        """The last line that names an error, else the last line."""
        return cause(self._lines)


def cause(lines: Iterable[str]) -> str:
    """One line that says why."""
    last, named = "", ""
    for line in lines:
        last = _PREFIX.sub("", line).strip() or last
        found = _CAUSE.search(last)
        if found:
            named = found[1].strip()
    return (named or last)[:300]
