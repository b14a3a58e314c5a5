"""Talks to one of the small programs of programs/ on a host: JSON lines both ways, waits with a time limit."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.lan.lab import Host

ROOT = Path(__file__).resolve().parents[2]
EVENTS_MAX = 20_000

Event = dict[str, Any]


class Program:
    """A running program of tests/lan/programs; `events` holds every JSON line that it printed, in order."""

    def __init__(self, host: Host, name: str, *arguments: str) -> None:
        self.host = host
        argv = [sys.executable, "-m", f"tests.lan.programs.{name}", *arguments]
        self.process = host.popen(argv, stdin=subprocess.PIPE, cwd=ROOT)
        self.events: list[Event] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name=f"{host.name}-{name}", daemon=True)
        self._reader.start()

    def say(self, **command: Any) -> None:
        """Send one command."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def wait(self, what: str, wanted: Callable[[Event], bool], timeout_s: float = 10.0, start: int = 0) -> Event:
        """The first event from number `start` on that is wanted; AssertionError, with all events, when late."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                for event in self.events[start:]:
                    if wanted(event):
                        return event
                left = deadline - time.monotonic()
                assert left > 0, f"{self.host.name} did not see {what} in {timeout_s} s; it saw {self.events[-20:]}"
                self._changed.wait(min(left, 0.2))

    def mark(self) -> int:
        """The number of the next event, for `wait(start=...)`."""
        with self._changed:
            return len(self.events)

    def ask(self, **command: Any) -> Event:
        """Send a command and wait for the reply of the same name."""
        start = self.mark()
        self.say(**command)
        return self.wait(f"a reply to {command}", lambda e: e["event"] == command["command"], start=start)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it in an orderly way (end of its input)."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=timeout_s)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(timeout=5.0)

    def _read(self) -> None:
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                event = json.loads(line)
                with self._changed:
                    assert len(self.events) < EVENTS_MAX, "a program floods its test"
                    self.events.append(event)
                    self._changed.notify_all()
        except ValueError:
            # The lab closed the pipe.
            return
