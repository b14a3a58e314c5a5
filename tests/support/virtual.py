"""An event loop on virtual time for tests of a whole node: no sleep takes any."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time stands still while anything is ready, and jumps to the next timer when nothing is.

    While a thread works for the loop (the GPU poll), it waits for real.
    """

    def __init__(self) -> None:
        self.now_s = 1000.0
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        wait = selector.select

        def select(timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            events = wait(0.002)
            if not events and timeout:
                self.now_s += timeout
            return events

        selector.select = select  # type: ignore[method-assign]

    def time(self) -> float:
        return self.now_s


def virtually(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main())
