"""Servers under measurement: started, waited for, ended without a trace, and how much CPU their processes used."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from covey.demo.pool import descendants
from covey_engine_plugin import PARENT_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "bench"
START_TIMEOUT_S = 90.0
END_TIMEOUT_S = 2.0
POLL_S = 0.1
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One program that listens on loopback. The launcher ends it when this process ends, however that happens."""

    def __init__(
        self, name: str, port: int, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.port = port
        self._command = list(command)
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._log: Path | None = None

    @property
    def pids(self) -> list[int]:
        """The first process of each tree that counts."""
        return [] if self._process is None else [self._process.pid]

    def start(self, log_folder: Path) -> None:
        log_folder.mkdir(parents=True, exist_ok=True)
        self._log = log_folder / f"{self.name.replace(' ', '-')}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "covey_engine_plugin.launch", *self._command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environment | {PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,
            )

    def wait_answering(self, path: str) -> None:
        """Until `path` answers 200. Raises RuntimeError with the program's last words."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"it ended while starting: {self.last_words()}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=2) as answer:
                    if answer.status == 200:
                        return
            except (OSError, urllib.error.URLError):
                pass
            time.sleep(POLL_S)
        raise RuntimeError(f"it did not answer within {START_TIMEOUT_S:.0f} s: {self.last_words()}")

    def last_words(self) -> str:
        """The end of its log, on one line."""
        text = self._log.read_text(errors="replace") if self._log is not None else ""
        return " / ".join(text.strip().splitlines()[-3:])[-400:]

    def stop(self) -> None:
        """The whole tree."""
        if self._process is None:
            return
        tree = [self._process.pid, *descendants(self._process.pid)]
        self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in tree[1:]:
            _kill(pid)
        self._process = None


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def trees(pids: Iterable[int], without: Path) -> list[int]:
    """Those processes and all that they started, except those that run the program `without`."""
    found = {pid for first in pids for pid in (first, *descendants(first))}
    return sorted(pid for pid in found if _program(pid) != str(without.resolve()))


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds used so far by living processes, user and system, all threads (proc(5), fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def _program(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return ""
