"""A supervisor's SIGTERM and a terminal's hang-up clean up as Ctrl-C does."""

from __future__ import annotations

import signal


def interrupt_on_signals() -> None:
    """From now on they raise KeyboardInterrupt in the main thread."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
