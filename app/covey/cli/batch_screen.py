"""What `covey batch` shows while it waits: a bar on a terminal, a line now and then elsewhere, nothing with --json.

All of it on standard error: standard output has the ending alone.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

import click

from covey.terminal import harmless

SAID_EVERY_S = 10.0
SENDING_UNSAID_S = 2.0
"""An upload that takes less is not worth a line."""


class BatchScreen:
    """Shows nothing. Use as a context manager."""

    def __enter__(self) -> BatchScreen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the terminal as it was."""

    def sending(self, sent_bytes: int, size_bytes: int) -> None:
        """The upload goes on."""

    def running(self, found: Any) -> None:
        """The batch as its machine sees it now."""

    def away(self, why: str) -> None:
        """Nobody answers at present."""


class LinesScreen(BatchScreen):
    """For logs: a line when something begins, and of what goes on not more than one in SAID_EVERY_S."""

    def __init__(self) -> None:
        self._said = ""
        self._doing = "sending"
        self._next_at = time.monotonic() + SENDING_UNSAID_S

    def sending(self, sent_bytes: int, size_bytes: int) -> None:
        self._say("sending", f"sent {sent_bytes * 100 // max(1, size_bytes)} %")

    def running(self, found: Any) -> None:
        self._say("running", f"{found['id']} {state_of(found)}")

    def away(self, why: str) -> None:
        self._say("away", f"waiting: {why}")

    def _say(self, doing: str, text: str) -> None:
        if text != self._said and (doing != self._doing or time.monotonic() >= self._next_at):
            self._said, self._doing, self._next_at = text, doing, time.monotonic() + SAID_EVERY_S
            click.echo(harmless(text), err=True)


class BarScreen(BatchScreen):
    """For people."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("sending", total=None, state="")
        self._runs = False

    def __enter__(self) -> BatchScreen:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def sending(self, sent_bytes: int, size_bytes: int) -> None:
        self._progress.update(self._task, completed=sent_bytes, total=size_bytes)

    def running(self, found: Any) -> None:
        counts = found["request_counts"]
        done = counts["completed"] + counts["failed"]
        if not self._runs:
            # A new bar: the time remaining is reckoned from answers, not from the upload.
            self._runs = True
            self._progress.reset(self._task, description="answering")
        self._progress.update(
            self._task, completed=done, total=counts["total"] or None, state=harmless(state_of(found))
        )

    def away(self, why: str) -> None:
        self._progress.update(self._task, state=harmless(f"waiting: {why}"))


def state_of(found: Any) -> str:
    """One line: how far, how many failed, what it waits for."""
    counts = found["request_counts"]
    waits_for = (found.get("covey") or {}).get("waits_for")
    failed = f", {counts['failed']} failed" if counts["failed"] else ""
    waiting = f", waits for: {waits_for}" if waits_for else ""
    return f"{found['status']} {counts['completed'] + counts['failed']}/{counts['total']}{failed}{waiting}"


def screen_for(as_json: bool) -> BatchScreen:
    if as_json:
        return BatchScreen()
    return BarScreen() if sys.stderr.isatty() else LinesScreen()
