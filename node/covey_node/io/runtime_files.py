"""The private folder of sockets and process notes, and the sweep of what a killed agent left behind.

A note says which agent (process id and start time) started which engine, and a random token that stands in the
environment of every process of that engine. The sweep ends exactly the processes that carry the token of a note whose
agent is gone: never another agent's, never a user's own vLLM, whatever process ids were reused.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

SOCKET_PATH_BYTES_MAX = 107
"""sun_path holds 108 bytes with its final zero (unix(7))."""

NOTE_BYTES_MAX = 4096
TOKEN_VARIABLE = b"COVEY_ENGINE_TOKEN="


class RuntimeFolderError(Exception):
    """The folder cannot be used; the message says what to do."""


def default_folder() -> Path:
    """Per user: under XDG_RUNTIME_DIR where it exists, else the temporary folder."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and Path(base).is_dir() and len(base) < 40:
        return Path(base) / "covey"
    return Path(tempfile.gettempdir()) / f"covey-{os.getuid()}"


def folder_of(setting: str) -> Path:
    """The configured folder, or the default one for an empty setting."""
    return Path(setting).absolute() if setting else default_folder()


def private_folder(path: Path) -> Path:
    """Made with mode 0700 if absent; raises RuntimeFolderError if it belongs to somebody else or is a link."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise RuntimeFolderError(
            f"cannot make {path}: {error.strerror}; set runtime_dir to a folder of yours"
        ) from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise RuntimeFolderError(f"{path} is not a folder of this user; remove it or set runtime_dir")
    path.chmod(0o700)
    return path


def socket_path(folder: Path, token: str) -> Path:
    """A short name, since the kernel's limit is short."""
    path = folder / f"{token[:12]}.sock"
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise RuntimeFolderError(f"{folder} is too long for a Unix socket; set runtime_dir to a shorter path")
    return path


@dataclass(frozen=True, slots=True)
class Note:
    """Which agent started the engine with this token."""

    token: str
    agent_pid: int
    agent_started: int

    @staticmethod
    def of_this_process(token: str) -> Note:
        return Note(token, os.getpid(), started_at(os.getpid()) or 0)

    def write(self, folder: Path) -> None:
        text = json.dumps({"token": self.token, "agent_pid": self.agent_pid, "agent_started": self.agent_started})
        (folder / f"{self.token[:12]}.engine").write_text(text)

    @property
    def agent_lives(self) -> bool:
        return started_at(self.agent_pid) == self.agent_started


def forget(folder: Path, token: str) -> None:
    """Removes an engine's note and socket."""
    for suffix in (".engine", ".sock"):
        (folder / f"{token[:12]}{suffix}").unlink(missing_ok=True)


def started_at(pid: int) -> int | None:
    """Start time in clock ticks since boot: tells a process from a later one with the same id. None: no such one."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


def processes_of(token: str) -> list[int]:
    """Living processes with this token in their environment."""
    wanted = TOKEN_VARIABLE + token.encode("ascii")
    found = []
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        try:
            variables = Path(entry.path, "environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or another user's
            continue
        if wanted in variables and started_at(int(entry.name)) is not None:
            found.append(int(entry.name))
    return found


def kill_all(token: str) -> int:
    """SIGKILL to every process of that engine; returns how many."""
    pids = processes_of(token)
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    return len(pids)


def sweep(folder: Path) -> int:
    """Ends the engines of agents that are gone; returns how many processes that were."""
    killed = 0
    for path in folder.glob("*.engine"):
        note = _read(path)
        if note is None:
            path.unlink(missing_ok=True)
        elif not note.agent_lives:
            killed += kill_all(note.token)
            forget(folder, note.token)
    if killed:
        log.warning("ended %d engine processes that a killed agent had left", killed)
    return killed


def _read(path: Path) -> Note | None:
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(NOTE_BYTES_MAX))
        token = values["token"]
        if not (isinstance(token, str) and len(token) >= 16 and token.isalnum()):
            return None
        return Note(token, int(values["agent_pid"]), int(values["agent_started"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
