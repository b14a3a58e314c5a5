"""Waiting for what other processes do: bounded, and saying what did not happen."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_Value = TypeVar("_Value")

INTERVAL_S = 0.02


def wait_until(condition: Callable[[], _Value], what: str, timeout_s: float = 30.0) -> _Value:
    """The first true value of `condition`. Fails the test, naming `what`, after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"did not happen within {timeout_s:g} s: {what}")
        time.sleep(INTERVAL_S)
