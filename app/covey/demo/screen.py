"""What the demo prints: colour and a running line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.status import Status

BEAT_S = 10.0
"""Between two equal progress lines where there is no terminal."""


class Screen:
    """One for the whole demo."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)
        self._status: Status | None = None
        self._last = ("", 0.0)
        self._started = time.monotonic()

    def progress(self, text: str, detail: str = "") -> None:
        """What is going on now; replaced by the next one. `detail` changes often and is for terminals only."""
        elapsed = time.monotonic() - self._started
        if self._console.is_terminal:
            line = f"{escape(text)} [dim]{escape(detail)} {elapsed:.0f} s[/dim]"
            if self._status is None:
                self._status = self._console.status(line)
                self._status.start()
            self._status.update(line)
            return
        said, at = self._last
        if text != said or elapsed - at > BEAT_S:
            self._last = (text, elapsed)
            self._console.print(f"[{elapsed:5.1f} s] {text}", markup=False)

    def say(self, text: RenderableType = "", plain: bool = False) -> None:
        """A line that stays; `plain` where brackets are not markup."""
        self._clear()
        self._console.print(text, markup=not plain)

    def heading(self, text: str) -> None:
        """A step of the demo."""
        self._clear()
        self._console.print(f"\n[bold]{text}[/bold]")

    def token(self, text: str) -> None:
        """A piece of an answer, as it comes."""
        self._clear()
        self._console.print(text, end="", markup=False)
        self._console.file.flush()

    def close(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
