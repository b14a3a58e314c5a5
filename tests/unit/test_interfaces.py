"""The interface monitor: who is told what, with scripted interfaces."""

from __future__ import annotations

import logging

import pytest

from covey_mesh.core.addresses import AddressKind, InterfaceAddress, kind_of
from covey_mesh.io.interfaces import InterfaceMonitor, read_interfaces

ONE = InterfaceAddress("eth0", "10.0.0.1", 24, 2)
TWO = InterfaceAddress("eth0", "10.0.0.2", 24, 2)


class Script:
    """Each read gives the next value; an exception is raised."""

    def __init__(self, *values: tuple[InterfaceAddress, ...] | OSError) -> None:
        self._values = list(values)

    def __call__(self) -> tuple[InterfaceAddress, ...]:
        value = self._values.pop(0) if len(self._values) > 1 else self._values[0]
        if isinstance(value, OSError):
            raise value
        return value


def test_subscribers_hear_changes_and_nothing_else() -> None:
    monitor = InterfaceMonitor(read=Script((), (), (ONE,), (ONE,), (TWO,)))
    heard: list[tuple[InterfaceAddress, ...]] = []
    end = monitor.subscribe(heard.append)
    assert [monitor.poll() for _ in range(4)] == [False, True, False, True]
    assert heard == [(ONE,), (TWO,)]
    assert monitor.current == (TWO,)
    end()
    end()


def test_a_pulled_cable_is_a_change() -> None:
    unplugged = InterfaceAddress("eth0", "10.0.0.1", 24, 2, has_carrier=False)
    monitor = InterfaceMonitor(read=Script((ONE,), (unplugged,)))
    assert monitor.poll()


def test_an_unreadable_system_keeps_the_last_and_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    monitor = InterfaceMonitor(read=Script((ONE,), OSError("no"), OSError("no"), (TWO,)))
    with caplog.at_level(logging.WARNING):
        assert [monitor.poll() for _ in range(3)] == [False, False, True]
    assert len(caplog.records) == 1
    assert monitor.current == (TWO,)


def test_the_real_interfaces_hold_a_loopback() -> None:
    assert any(kind_of(one) is AddressKind.LOOPBACK for one in read_interfaces())


@pytest.mark.asyncio
async def test_start_and_stop_may_be_called_twice() -> None:
    monitor = InterfaceMonitor(read=Script((ONE,)))
    monitor.start()
    monitor.start()
    await monitor.stop()
    await monitor.stop()
