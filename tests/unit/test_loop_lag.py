"""The event loop's lag: measured against a clock of its own, told when it is long."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from covey_gateway.io.loop_lag import PERIOD_S, TOLD_FROM_S, LoopLag


class Timers:
    """The one timer that is set, and the time."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.delay_s = 0.0
        self.callback: Callable[[], object] | None = None

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timers:
        assert self.callback is None, "two timers at once"
        self.delay_s, self.callback = delay, callback
        return self

    def cancel(self) -> None:
        self.callback = None

    def fire(self, late_s: float) -> None:
        """The loop comes to it so late; negative: too early, as a loop whose own clock lags behind."""
        callback, self.callback = self.callback, None
        assert callback is not None
        self.now_s += self.delay_s + late_s
        callback()


def test_every_look_tells_how_late_it_came() -> None:
    timers, seen = Timers(), list[float]()
    lag = LoopLag(timers, seen.append, lambda: timers.now_s)
    lag.start()
    assert timers.delay_s == PERIOD_S
    for late_s in (0.0, 0.5, -0.001, 0.25):
        timers.fire(late_s)
    assert seen == pytest.approx([0.0, 0.5, 0.0, 0.25])


def test_a_long_standstill_is_told_and_a_short_one_is_not(caplog: pytest.LogCaptureFixture) -> None:
    timers = Timers()
    LoopLag(timers, lambda _: None, lambda: timers.now_s).start()
    timers.fire(TOLD_FROM_S - 0.01)
    assert caplog.records == []
    timers.fire(3.0)
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["seconds"]) == ("WARNING", 3.0)


def test_nothing_is_left_after_stop() -> None:
    timers = Timers()
    lag = LoopLag(timers, lambda _: None, lambda: timers.now_s)
    lag.start()
    lag.stop()
    lag.stop()
    assert timers.callback is None
