"""An event loop whose time jumps to the next timer: hours in seconds, the same every time.

Not here: anything that waits for a file descriptor; there is none in a simulation.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any


class _NoSelector(selectors.BaseSelector):
    """Selects nothing, and lets the time pass that would have been waited."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing is scheduled: the simulation would wait for ever"
        self.now_s += max(0.0, timeout)
        return []

    def close(self) -> None:
        pass

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual and starts at 0."""

    def __init__(self) -> None:
        self._no_selector = _NoSelector()
        super().__init__(self._no_selector)

    def time(self) -> float:
        return self._no_selector.now_s
