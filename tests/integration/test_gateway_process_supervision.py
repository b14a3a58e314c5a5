"""Gateway processes that cannot start, never listen or say what no process says: small programs in their place."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from tests.support.gateway import FakeMesh

from covey.demo.pool import alive
from covey_gateway.core.observer import SilentObserver
from covey_gateway.io.processes import supervisor
from covey_gateway.io.processes.port import Surroundings
from covey_gateway.io.processes.supervisor import GatewayProcesses

WAIT_S = 20.0
SETTINGS = b"what it is told"


class Observer(SilentObserver):
    def loop_lagged(self, seconds: float) -> None:
        pass


def made(*command: str, count: int = 1) -> GatewayProcesses:
    around = Surroundings(FakeMesh(), Observer(), lambda _: None)
    return GatewayProcesses(count, command, lambda number: SETTINGS, around)


def python(program: str) -> tuple[str, ...]:
    """Followed by the number of its socket."""
    return sys.executable, "-S", "-c", program


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 (another process changes it)
            await asyncio.sleep(0.01)


def reasons(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.reason for record in caplog.records if hasattr(record, "reason")]


@pytest.mark.asyncio
async def test_a_program_that_is_not_there_is_said_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    processes = made("/nowhere/to/be/found", count=2)
    await asyncio.wait_for(processes.start(), WAIT_S)
    await until(lambda: processes.restarts >= 4)
    await processes.stop(0.0)
    assert all("cannot be started: No such file" in reason for reason in reasons(caplog))
    assert processes.running == {}


@pytest.mark.asyncio
async def test_one_that_ends_at_once_is_started_again_with_growing_pauses(caplog: pytest.LogCaptureFixture) -> None:
    processes = made("/bin/sh", "-c", "exit 7")
    await asyncio.wait_for(processes.start(), WAIT_S)
    await until(lambda: processes.restarts >= 3)
    await processes.stop(0.0)
    assert set(reasons(caplog)) == {"ended with status 7"}
    assert [record.pause_s for record in caplog.records if hasattr(record, "pause_s")][:3] == [0.1, 0.2, 0.4]


@pytest.mark.asyncio
async def test_one_that_never_listens_is_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "START_TIMEOUT_S", 0.2)
    processes = made(*python("import time; time.sleep(1000)"))
    await asyncio.wait_for(processes.start(), WAIT_S)
    await until(lambda: processes.restarts >= 1)
    await processes.stop(0.0)
    assert reasons(caplog)[0] == "its channel was lost: it did not begin to listen"


@pytest.mark.asyncio
async def test_one_that_says_what_no_process_says_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    """The settings reach it on its standard input, whole; what it makes of them is no frame."""
    program = "import os, sys, time; os.write(int(sys.argv[1]), sys.stdin.buffer.read()); time.sleep(1000)"
    processes = made(*python(program))
    with caplog.at_level(logging.WARNING):
        await asyncio.wait_for(processes.start(), WAIT_S)
    await processes.stop(0.0)
    length = int.from_bytes(SETTINGS[:4], "big")
    assert f"it sent a message of {length} bytes" in reasons(caplog)[0]


@pytest.mark.asyncio
async def test_one_that_ignores_the_end_is_killed(tmp_path: Any) -> None:
    """It listens, as far as it says, and then does nothing: neither draining nor SIGTERM moves it."""
    note = tmp_path / "pid"
    said = "b'\\x00\\x00\\x00\\x05\\x0a\\x03\\xda\\x02\\x00'"  # one frame: a batch of one item, `listening`
    program = (
        "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"open({str(note)!r}, 'w').write(str(os.getpid())); os.write(int(sys.argv[1]), {said}); time.sleep(1000)"
    )
    processes = made(*python(program))
    await asyncio.wait_for(processes.start(), WAIT_S)
    pid = int(note.read_text())
    assert processes.running == {1: pid}
    await processes.stop(0.0)
    await until(lambda: not alive({pid}))
    assert processes.running == {}
    assert pid != os.getpid()
