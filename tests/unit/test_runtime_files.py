"""Private folder, notes, and the sweep of engines whose agent is gone."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from covey_node.io import runtime_files
from covey_node.io.runtime_files import Note, RuntimeFolderError, private_folder, socket_path

SLEEPER = [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"]


@pytest.fixture
def sleeper() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A process marked as an engine's."""
    token = secrets.token_hex(16)
    env = os.environ | {"COVEY_ENGINE_TOKEN": token}
    with subprocess.Popen(SLEEPER, env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield token, process
        process.kill()


def test_the_folder_is_private(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "run")
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o777)
    assert private_folder(made).stat().st_mode & 0o777 == 0o700


def test_a_link_or_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(RuntimeFolderError):
            private_folder(tmp_path / name)


def test_a_socket_path_that_the_kernel_refuses_is_refused_here() -> None:
    assert len(str(socket_path(Path("/tmp/covey-1000"), "a" * 32))) < 108
    with pytest.raises(RuntimeFolderError, match="shorter"):
        socket_path(Path("/" + "x" * 100), "a" * 32)


def test_a_living_agents_engine_is_left_alone(tmp_path: Path, sleeper: tuple[str, subprocess.Popen[bytes]]) -> None:
    token, process = sleeper
    Note.of_this_process(token).write(tmp_path)
    assert runtime_files.sweep(tmp_path) == 0
    assert process.poll() is None


@pytest.mark.parametrize("shift", [1, -1])
def test_a_gone_agents_engine_is_ended(
    tmp_path: Path, sleeper: tuple[str, subprocess.Popen[bytes]], shift: int
) -> None:
    """The same process id with another start time is another process."""
    token, process = sleeper
    started = runtime_files.started_at(os.getpid())
    assert started is not None
    Note(token, runtime_files.boot_id(), os.getpid(), started + shift).write(tmp_path)
    assert runtime_files.sweep(tmp_path) == 1
    assert process.wait(20) == -9
    assert list(tmp_path.iterdir()) == []


def test_a_process_without_the_token_is_never_touched(
    tmp_path: Path, sleeper: tuple[str, subprocess.Popen[bytes]]
) -> None:
    _, process = sleeper
    Note("f" * 32, runtime_files.boot_id(), os.getpid(), 1).write(tmp_path)
    assert runtime_files.sweep(tmp_path) == 0
    assert process.poll() is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"token": "short", "agent_pid": 1, "agent_started": 1}', '{"token": 5}', "x" * 100_000]
)
def test_a_broken_note_is_removed(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.engine").write_text(text)
    assert runtime_files.sweep(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []


def test_no_such_process() -> None:
    assert runtime_files.started_at(2**22 + 1) is None


def test_a_process_that_lost_its_token_is_known_by_its_session(tmp_path: Path) -> None:
    """Its leader is gone, as when a serving process was killed and its core hangs on."""
    leader = "import subprocess; p = subprocess.Popen(%r); print(p.pid, flush=True); import time; time.sleep(600)"
    code = leader % (["sleep", "600"],)
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        left = int(process.stdout.readline())
        note = Note("e" * 32, runtime_files.boot_id(), os.getpid(), 1).with_leader(process.pid)
        assert set(note.processes()) == {process.pid, left}
        process.kill()
        process.wait(20)
        assert note.processes() == [left]
        note.write(tmp_path)
        assert runtime_files.sweep(tmp_path) == 1
        assert process.stdout.read() == b""


def test_nothing_is_ours_after_a_reboot_or_when_the_id_was_reused() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as leader:
        mine = Note("e" * 32, runtime_files.boot_id(), 1, 1).with_leader(leader.pid)
        try:
            assert mine.processes() == [leader.pid]
            assert replace(mine, boot_id="another").processes() == []
            assert replace(mine, leader_started=mine.leader_started + 1).processes() == []
        finally:
            leader.kill()
