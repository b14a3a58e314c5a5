"""The harness' end of the load: starts its process, gives commands, collects observations as they end."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lan.chaos.observation import Ended, Observation, from_line
from tests.lan.shell import TOOL_TIMEOUT_S

ROOT = Path(__file__).resolve().parents[3]
OBSERVATIONS_MAX = 1_000_000
STOPS_WITHIN_S = 90.0
PAUSE_S_MAX = 0.1


class LoadProcess:
    """`namespaces`: host name -> network namespace."""

    def __init__(self, namespaces: Mapping[str, str], seed: int) -> None:
        program = [sys.executable, "-m", "tests.lan.chaos.load", json.dumps(dict(namespaces)), str(seed)]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,
        )
        self._changed = threading.Condition()
        self._ended: list[Observation] = []
        self._probes: list[Observation] = []
        self._replies: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def run(self, mix: str, clients_max: int = 1000, pause_s_max: float = PAUSE_S_MAX) -> None:
        """Begin; `stop` ends it. A client waits up to `pause_s_max` between two requests."""
        self._say(command="run", mix=mix, clients_max=clients_max, pause_s_max=pause_s_max)

    def stop(self) -> tuple[list[Observation], float]:
        """Let what runs end. All observations since `run`, and how late the machine's timers were at worst."""
        self._say(command="stop")
        lag_s = float(self._reply("stopped", STOPS_WITHIN_S)["lag_s"])
        with self._changed:
            ended, self._ended = self._ended, []
        return ended, lag_s

    def probe(self, asked: Sequence[tuple[str, str]], seconds: float) -> None:
        """Short requests for each (gateway, model) for a while; returns at once, `probes` waits for the end."""
        self._say(command="probe", asked=[list(one) for one in asked], seconds=seconds)

    def probes(self, timeout_s: float) -> list[Observation]:
        """What the probes have seen."""
        self._reply("probed", timeout_s)
        with self._changed:
            found, self._probes = self._probes, []
        return found

    def undisturbed(self, entries: Sequence[str], kinds: Sequence[str]) -> list[Observation]:
        """What a healthy pool answers to everything of these kinds that will be asked, each at the first gateway and
        at the last."""
        self._say(command="undisturbed", entries=[entries[0], entries[-1]], kinds=list(kinds))
        found = [from_line(line) for line in self._reply("undisturbed", STOPS_WITHIN_S)["lines"]]
        for seen in found:
            assert seen.ended is Ended.FINISHED, f"an undisturbed pool: {seen}"
        return found

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(TOOL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def _say(self, **command: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _reply(self, event: str, timeout_s: float) -> dict[str, Any]:
        def arrived() -> bool:
            return any(reply["event"] == event for reply in self._replies) or self._process.poll() is not None

        with self._changed:
            assert self._changed.wait_for(arrived, timeout_s), f"the load did not say `{event}` in {timeout_s:g} s"
            found = next((reply for reply in self._replies if reply["event"] == event), None)
            assert found is not None, "the load's process ended"
            self._replies.remove(found)
            return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            content = json.loads(line)
            with self._changed:
                if content["event"] == "ended":
                    assert len(self._ended) < OBSERVATIONS_MAX
                    self._ended.append(from_line(content["line"]))
                elif content["event"] == "probe":
                    self._probes.append(from_line(content["line"]))
                else:
                    self._replies.append(content)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()
