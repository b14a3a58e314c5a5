"""`make demo` and `make run` as processes: they end as they promise, and leave nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.polling import wait_until

from covey.demo.pool import alive, descendants

COMMAND = [sys.executable, "-m", "covey.demo"]


@pytest.mark.parametrize("engine", ["simulated", pytest.param("vllm", marks=pytest.mark.vllm)])
def test_the_demo_proves_itself(engine: str) -> None:
    done = subprocess.run(
        [*COMMAND, "prove", "--engine", engine], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for text in ("A chat over HTTP", "A chat over gRPC", "leads: killing it", "What happened, measured in this run"):
        assert text in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_running_demo_ends_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [*COMMAND, "run", "--engine", "simulated"], stdout=out, stderr=out, stdin=subprocess.DEVNULL
        )
    try:
        wait_until(lambda: "Ctrl-C ends the pool" in (tmp_path / "out").read_text(), "the demo is up", timeout_s=60)
        pids = descendants(process.pid)
        assert len(pids) >= 2
        process.send_signal(number)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    assert not alive(pids)


def test_a_killed_demo_takes_its_agents_along(tmp_path: Path) -> None:
    # Nobody is left to remove the demo's folder, so it goes where pytest clears away.
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [*COMMAND, "run", "--engine", "simulated"], stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=environ
        )
    try:
        pids = wait_until(lambda: len(found := descendants(process.pid)) >= 2 and found, "agents run", timeout_s=60)
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: not alive(pids), "the agents are gone")
