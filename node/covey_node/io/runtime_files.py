"""The private folder of sockets and process notes, and the sweep of what a killed agent left behind.

A note says which agent (process id and start time) started which engine, and how to know the engine's processes: they
share the session of the first one (the kernel does not reuse a session's id while a member lives), or carry a random
token in their environment (which a process that sets its own title overwrites, as vLLM's do). The sweep ends exactly
the processes of a note whose agent is gone: never another agent's, never a user's own vLLM, whatever ids were reused.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import stat
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import msgspec

log = logging.getLogger(__name__)

SOCKET_PATH_BYTES_MAX = 107
"""sun_path holds 108 bytes with its final zero (unix(7))."""

EVENTS_SUFFIX = ".kv"
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


def events_path(folder: Path, token: str) -> Path:
    """Of the socket on which an engine tells of its cache: no longer than the other one's."""
    return folder / f"{token[:12]}{EVENTS_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Note:
    """Which agent started the engine with this token; `leader_pid` is the engine's first process, 0 before it is
    known. Start times are of started_at, comparable within one boot."""

    token: str
    boot_id: str
    agent_pid: int
    agent_started: int
    leader_pid: int = 0
    leader_started: int = 0

    @staticmethod
    def of_this_process(token: str) -> Note:
        """For an engine that is about to be started."""
        return Note(token, boot_id(), os.getpid(), started_at(os.getpid()) or 0)

    def with_leader(self, pid: int) -> Note:
        """Its first process, a session leader, runs now."""
        return replace(self, leader_pid=pid, leader_started=started_at(pid) or 0)

    def write(self, folder: Path) -> None:
        path = folder / f"{self.token[:12]}.engine"
        path.with_suffix(".new").write_text(json.dumps(asdict(self)))
        path.with_suffix(".new").replace(path)

    @property
    def agent_lives(self) -> bool:
        return self.boot_id == boot_id() and started_at(self.agent_pid) == self.agent_started

    def processes(self) -> list[int]:
        """The engine's living processes."""
        if self.boot_id != boot_id():
            return []
        session = self.leader_pid if started_at(self.leader_pid) in (None, self.leader_started) else 0
        return [pid for pid in _process_ids() if self._is_ours(pid, session)]

    def _is_ours(self, pid: int, session: int) -> bool:
        if session and _session_of(pid) == session:
            return True
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:  # gone meanwhile, or another user's
            return False
        return TOKEN_VARIABLE + self.token.encode("ascii") in variables and started_at(pid) is not None

    def kill_all(self) -> int:
        """SIGKILL to every process of the engine; returns how many."""
        pids = self.processes()
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        return len(pids)


def boot_id() -> str:
    """Random per boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def forget(folder: Path, token: str) -> None:
    """Removes an engine's note and sockets."""
    for suffix in (".engine", ".sock", EVENTS_SUFFIX):
        (folder / f"{token[:12]}{suffix}").unlink(missing_ok=True)


def started_at(pid: int) -> int | None:
    """Start time in clock ticks since boot: tells a process from a later one with the same id. None: no such one."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _session_of(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields else None


def _stat(pid: int) -> list[bytes] | None:
    """/proc/PID/stat after the name (proc(5)); None for what is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rsplit(b")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in (b"Z", b"X") else fields


def _process_ids() -> list[int]:
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdecimal()]


def sweep(folder: Path) -> int:
    """Ends the engines of agents that are gone; returns how many processes that were."""
    killed = 0
    for path in folder.glob("*.engine"):
        note = read_note(path)
        if note is None:
            path.unlink(missing_ok=True)
        elif not note.agent_lives:
            killed += note.kill_all()
            forget(folder, note.token)
    if killed:
        log.warning("ended %d engine processes that a killed agent had left", killed)
    return killed


def read_note(path: Path) -> Note | None:
    """None for what is no note."""
    try:
        with path.open("rb") as file:
            note = msgspec.json.decode(file.read(NOTE_BYTES_MAX), type=Note)
    except (OSError, msgspec.DecodeError):
        return None
    return note if len(note.token) >= 16 and note.token.isalnum() and note.token.isascii() else None
