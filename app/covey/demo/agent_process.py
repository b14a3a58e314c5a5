"""One agent of the demo: a `covey up` process of its own, which never outlives the demo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covey.cli.agent_client import AgentClient
from covey.demo.ports import Addresses
from covey.errors import UserError
from covey_engine_plugin import PARENT_VARIABLE

ANSWERS_WITHIN_S = 60.0
ENDS_WITHIN_S = 60.0
POLL_INTERVAL_S = 0.05
LOG_LINES_SHOWN = 30


class DemoFailed(Exception):
    """The demo did not do what it shows; the message says what and where to look."""


class AgentProcess:
    """Give it a state directory that is in a pool, then `start`."""

    def __init__(
        self,
        name: str,
        state_dir: Path,
        addresses: Addresses,
        settings: tuple[str, ...],
        secret: Mapping[str, str] | None = None,
    ) -> None:
        """`settings` are flags; `secret` are environment variables, for settings that have none."""
        self.name = name
        self.state_dir = state_dir
        self.addresses = addresses
        self.node_id = ""
        self._settings = settings
        self._secret = dict(secret or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        self._log = state_dir / "agent.log"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def client(self) -> AgentClient:
        """By URL, as a client on this machine sees it."""
        return AgentClient.at(f"http://{self.addresses.http}", "")

    def start(self) -> None:
        """Begin; `wait_answering` says when it is there."""
        self._asked = False
        where = self.addresses
        addresses = ("--http", where.http, "--grpc", where.grpc, "--link", where.link, "--enrol", where.enrol)
        command = covey_command(self.state_dir, "up", "--name", self.name, "--no-mdns", *addresses, *self._settings)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                # The launcher ties the agent to this process, also where this process is killed.
                [sys.executable, "-m", "covey_engine_plugin.launch", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment({**self._secret, PARENT_VARIABLE: str(os.getpid())}),
                start_new_session=True,
            )

    def wait_answering(self) -> None:
        """Until commands reach it (its models may still be loading). Raises DemoFailed."""
        deadline = time.monotonic() + ANSWERS_WITHIN_S
        while time.monotonic() < deadline:
            self.check_running()
            try:
                self.node_id = str(AgentClient.local(self.state_dir).get("/covey/v1/pool")["node_id"])
                return
            except UserError:
                time.sleep(POLL_INTERVAL_S)
        raise DemoFailed(f"agent {self.name} did not answer within {ANSWERS_WITHIN_S:.0f} s\n{self.last_lines()}")

    def check_running(self) -> None:
        """Raises DemoFailed where the process has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            code = self._process.returncode
            raise DemoFailed(f"agent {self.name} ended with exit code {code}\n{self.last_lines()}")

    def kill(self) -> None:
        """As a power cut would: no chance to say goodbye."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def ask_to_stop(self) -> None:
        """As Ctrl-C would; `stop` waits for the end. Asking twice would mean: at once."""
        if self.running and not self._asked:
            self._asked = True
            assert self._process is not None
            self._process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """One Ctrl-C."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def wait_ended(self) -> int:
        """The exit code, once it ends by itself. Raises subprocess.TimeoutExpired."""
        assert self._process is not None
        code = self._process.wait(ENDS_WITHIN_S)
        self._process = None
        return code

    def stop(self) -> int:
        """Ask, wait, insist. Returns the exit code; 0 where nothing ran."""
        if self._process is None:
            return 0
        self.ask_to_stop()
        try:
            code = self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL
        self._process = None
        return code

    def last_lines(self) -> str:
        """The end of its log."""
        try:
            lines = self._log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  {self.name}: {line}" for line in lines[-LOG_LINES_SHOWN:])


def covey_command(state_dir: Path, *arguments: str) -> list[str]:
    """The covey command of this installation, told nothing by the user's own settings."""
    return [sys.executable, "-m", "covey", "--config", os.devnull, "--state-dir", str(state_dir), *arguments]


def call_covey(state_dir: Path, *arguments: str) -> Mapping[str, Any]:
    """Run one command and return its JSON. Raises DemoFailed."""
    import json

    done = subprocess.run(
        covey_command(state_dir, "--json", *arguments),
        capture_output=True,
        text=True,
        env=_environment({}),
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise DemoFailed(f"covey {arguments[0]} failed:\n{done.stdout}{done.stderr}")
    found: Mapping[str, Any] = json.loads(done.stdout)
    return found


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COVEY_")}
    return {**kept, **more}
