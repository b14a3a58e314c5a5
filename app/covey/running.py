"""One agent for each state directory, and the note by which commands find it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from covey.errors import UserError

LOCK_NAME = ".agent.lock"
RUNNING_FILE = "running.json"
"""In the state directory while an agent runs: its process id, control socket and addresses."""


@dataclass(frozen=True, slots=True)
class Running:
    """A running agent of this machine, as it described itself."""

    pid: int
    socket: str
    http: str
    grpc: str
    link: str

    def alive(self) -> bool:
        return process_runs(self.pid)


def process_runs(pid: int) -> bool:
    """False for a process that has ended, also while its parent has not taken note (a zombie)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def running_agent(state_dir: Path) -> Running | None:
    """The agent that runs on `state_dir` and is ready for commands, or None."""
    try:
        content = json.loads((state_dir / RUNNING_FILE).read_text())
        names = ("socket", "http", "grpc", "link")
        found = Running(int(content["pid"]), *(str(content[name]) for name in names))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.alive() and _locked(state_dir) else None


def _locked(state_dir: Path) -> bool:
    """True while an agent holds the lock: a note left by a killed one may name a process id that lives again."""
    try:
        descriptor = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def writing(state_dir: Path) -> Iterator[None]:
    """An agent that cannot write there cannot promise a ballot either. Raises UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write to {state_dir}: {error.strerror}",
            "make room on its disk, mend its permissions, or name another with --state-dir",
        ) from error


@contextlib.contextmanager
def only_agent(state_dir: Path) -> Iterator[None]:
    """Held while the agent runs; the kernel gives it back however the process ends. Raises UserError."""
    with writing(state_dir):
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = running_agent(state_dir)
            who = f" (process {other.pid})" if other else ""
            raise UserError(
                f"an agent runs on {state_dir} already{who}",
                "`covey ps` shows it, `covey down` stops it; a second one needs another --state-dir",
            ) from None
        yield
        (state_dir / RUNNING_FILE).unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def leave_note(state_dir: Path, socket: Path, http: str, grpc: str, link: str) -> None:
    """Say where this agent can be reached; replaced as a whole, so that a reader never sees half. Raises UserError."""
    content = {
        "pid": os.getpid(),
        "socket": str(socket),
        "http": http,
        "grpc": grpc,
        "link": link,
        "started_unix_s": time.time(),
    }
    temporary = state_dir / f".{RUNNING_FILE}.new"
    with writing(state_dir):
        temporary.write_text(json.dumps(content))
        temporary.replace(state_dir / RUNNING_FILE)
