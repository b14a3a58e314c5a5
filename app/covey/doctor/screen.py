"""How the doctor's findings look to a person: each as it comes, and what is still being looked at below them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from covey.doctor.finding import Finding
from covey.terminal import harmless

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"ok": ("ok", "green"), "warn": ("warning", "yellow"), "fail": ("problem", "red")}
_WIDTH = 9


class Screen:
    """`console` takes the findings. What is pending is shown only where a person watches, and leaves no trace."""

    def __init__(self, console: Console, steps: Sequence[str]) -> None:
        self._console = console
        self._pending = list(steps)
        self._found: list[Finding] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Shows what is pending until the end of the block."""
        with self._console.status(self._looking()) as self._status:
            yield

    def tell(self, step: str, findings: list[Finding]) -> None:
        """A step has ended. Its problems first."""
        self._pending.remove(step)
        for finding in sorted(findings, key=lambda one: list(_MARKS).index(one.level), reverse=True):
            self._found.append(finding)
            self._show(finding)
        self._status.update(self._looking())

    def conclude(self) -> None:
        """What the person is to remember of it."""
        bad = {level: [one.title for one in self._found if one.level == level] for level in ("fail", "warn")}
        parts = [
            f"{_counted(len(titles), _MARKS[level][0])} ({', '.join(titles)})"
            for level, titles in bad.items()
            if titles
        ]
        self._console.print(harmless("; ".join(parts) or "nothing is wrong"), markup=False, highlight=False)

    def _show(self, finding: Finding) -> None:
        from rich.text import Text

        word, colour = _MARKS[finding.level]
        text = Text.assemble(
            (word.ljust(_WIDTH), colour), (f"{harmless(finding.title)}: ", "bold"), harmless(finding.detail)
        )
        if finding.fix:
            text.append(f"\n{' ' * _WIDTH}-> {harmless(finding.fix)}", "dim")
        self._console.print(text, soft_wrap=True)

    def _looking(self) -> str:
        return f"looking at {', '.join(self._pending)}" if self._pending else "done"


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count > 1 else ''}"
