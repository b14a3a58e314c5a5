"""Virtual time: an event loop that jumps to the next timer, and what one simulated process sees of it.

A process can be frozen (its timers are due the moment it goes on, as after SIGSTOP), suspended (its monotonic clock
stood still meanwhile, as on a closed laptop) or dead. While its callbacks run it is asyncio's running loop, so that
code which asks asyncio for timers runs unchanged. Not here: clocks that people see (machine.py).
"""

from __future__ import annotations

import heapq
from asyncio import _set_running_loop
from collections.abc import Callable, Coroutine, Generator
from typing import Any

RESOLUTION_S = 1e-7
"""Timers are late by this, so that none is early by a rounding error of drifting clocks."""


AT_ONCE_MAX = 20_000
"""Callbacks at one moment before something must be waking itself for ever."""


class TimeStandsStill(Exception):
    """A busy loop: in reality, a machine at 100 % CPU."""


class Timer:
    """One callback to come."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.callback: Callable[..., Any] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None

    def run(self) -> None:
        if self.callback is not None:
            self.callback(*self.args)


class VirtualLoop:
    """Time starts at 0 and moves only in `run_until`. Callbacks at the same time run in the order of planning."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = 0

    def time(self) -> float:
        return self.now_s

    def push(self, when_s: float, timer: Timer) -> None:
        self._order += 1
        heapq.heappush(self._heap, (when_s, self._order, timer))

    def call_at(self, when_s: float, callback: Callable[..., Any], *args: Any) -> Timer:
        timer = Timer(callback, args)
        self.push(when_s, timer)
        return timer

    def call_later(self, delay_s: float, callback: Callable[..., Any], *args: Any) -> Timer:
        return self.call_at(self.now_s + delay_s, callback, *args)

    def run_until(self, end_s: float) -> None:
        """Everything due by then. An exception of a callback ends the run."""
        heap, pop = self._heap, heapq.heappop
        at_once = 0
        while heap and heap[0][0] <= end_s:
            when_s, _, timer = pop(heap)
            if timer.callback is not None:
                at_once += 1
                if when_s > self.now_s:
                    self.now_s, at_once = when_s, 0
                elif at_once > AT_ONCE_MAX:
                    raise TimeStandsStill(f"{AT_ONCE_MAX} callbacks at {self.now_s:.6f}, the next is {timer.callback}")
                timer.run()
        self.now_s = max(self.now_s, end_s)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Drive a coroutine that awaits nothing but futures of a ProcessLoop."""
        try:
            future: Future = work.send(None)
        except StopIteration:
            return
        future.then(lambda: self.spawn(work))


class Future:
    """What `await loop.create_future()` needs, and no more."""

    def __init__(self) -> None:
        self._done = False
        self._result: Any = None
        self._then: list[Callable[[], None]] = []

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any) -> None:
        self._done, self._result = True, result
        for callback in self._then:
            callback()

    def then(self, callback: Callable[[], None]) -> None:
        self._then.append(callback)

    def __await__(self) -> Generator[Future, None, Any]:
        if not self._done:
            yield self
        return self._result


class ProcessTimer(Timer):
    """A timer of a process. `slept_s` is how long the process had been suspended in all when it was set."""

    __slots__ = ("process", "slept_s")

    def __init__(self, process: ProcessLoop, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.callback = callback
        self.args = args
        self.process = process
        self.slept_s = process.slept_s

    def run(self) -> None:
        process, callback = self.process, self.callback
        if process.dead or callback is None:
            return
        if process.frozen:
            process.held.append((process.loop.now_s, self))
        elif process.slept_s != self.slept_s:
            process.loop.push(process.loop.now_s + process.slept_s - self.slept_s, self)
            self.slept_s = process.slept_s
        else:
            _set_running_loop(process)  # type: ignore[arg-type]
            try:
                callback(*self.args)
            finally:
                _set_running_loop(None)


class ProcessLoop:
    """What one process sees: asyncio's loop as far as covey uses it. Times are of its own monotonic clock."""

    def __init__(self, loop: VirtualLoop, rate: float) -> None:
        self.loop = loop
        self.dead = False
        self.frozen = False
        self.slept_s = 0.0
        self.held: list[tuple[float | None, ProcessTimer]] = []
        self._rate = rate
        self._suspended_at_s: float | None = None

    # --- what the process calls -------------------------------------------------------------------------------------

    def time(self) -> float:
        return (self.loop.now_s - self.slept_s) * self._rate

    def call_later(self, delay_s: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> ProcessTimer:
        timer = ProcessTimer(self, callback, args)
        self.loop.push(self.loop.now_s + (delay_s / self._rate + RESOLUTION_S if delay_s > 0 else 0.0), timer)
        return timer

    def call_at(self, when_s: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> ProcessTimer:
        return self.call_later(max(0.0, when_s - self.time()), callback, *args)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> ProcessTimer:
        timer = ProcessTimer(self, callback, args)
        self.loop.push(self.loop.now_s, timer)
        return timer

    def create_future(self) -> Future:
        return Future()

    # --- what happens to it -----------------------------------------------------------------------------------------

    def enter(self, callback: Callable[..., Any], *args: Any) -> None:
        """Something arrives from outside: now, or when the process goes on, or never."""
        if self.dead:
            return
        if self.frozen:
            self.held.append((None, ProcessTimer(self, callback, args)))
            return
        _set_running_loop(self)  # type: ignore[arg-type]
        try:
            callback(*args)
        finally:
            _set_running_loop(None)

    def freeze(self) -> None:
        self.frozen = True

    def suspend(self) -> None:
        self.frozen = True
        self._suspended_at_s = self.loop.now_s

    def thaw(self) -> None:
        """Goes on: what became due meanwhile is due now; after a suspension, timers still have their rest to run."""
        now_s, since_s = self.loop.now_s, self._suspended_at_s
        self.frozen, self._suspended_at_s = False, None
        if since_s is not None:
            self.slept_s += now_s - since_s
        held, self.held = self.held, []
        for due_s, timer in held:
            rest_s = 0.0 if since_s is None or due_s is None else due_s - since_s
            timer.slept_s = self.slept_s
            self.loop.push(now_s + rest_s, timer)
