"""Whose runtime folder is whose, and which may be removed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from covey.errors import ConfigurationError
from covey.places import CONTROL_SOCKET, make_private
from covey.runtime_folder import LOCK_NAME, NEW_S, held, sweep_siblings

OWN, OTHER = "0123abcd", "89ab0123"
HOLD = "import sys; from pathlib import Path; from covey.runtime_folder import held\nwith held(Path(sys.argv[1])):"


def left_behind(folder: Path) -> Path:
    """As after SIGKILL: a socket that nobody serves, a lock file that nobody holds."""
    make_private(folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / CONTROL_SOCKET))
    (folder / LOCK_NAME).touch()
    return folder


def test_the_folder_is_private_while_held_and_gone_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / OWN
    with held(folder):
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "0123456789ab.sock").touch()
        (folder / "0123456789ab.engine").touch()
        with pytest.raises(ConfigurationError, match="another agent uses"), held(folder):
            pass
    assert not folder.exists()


def test_what_is_not_the_agents_stays(tmp_path: Path) -> None:
    folder = tmp_path / OWN
    with held(folder):
        for name in ("letter.txt", "podman.sock"):
            (folder / name).write_text("mine")
    assert sorted(path.name for path in folder.iterdir()) == ["letter.txt", "podman.sock"]


def test_a_start_removes_what_killed_agents_left(tmp_path: Path) -> None:
    dead = left_behind(tmp_path / OTHER)
    strange = left_behind(tmp_path / "not-a-tag")
    with held(tmp_path / OWN):
        assert not dead.exists()
        assert strange.exists()


def test_a_living_agents_folder_is_left_alone(tmp_path: Path) -> None:
    living = tmp_path / OTHER
    code = HOLD + "\n    print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(living)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"held\n"
        with held(tmp_path / OWN):
            assert living.exists()
        process.kill()
        process.wait()
        assert living.exists()
        with held(tmp_path / OWN):
            assert not living.exists()


def test_a_folder_that_is_just_being_made_is_left_alone(tmp_path: Path) -> None:
    young, old = tmp_path / OTHER, tmp_path / "ffffffff"
    make_private(young)
    make_private(old)
    past_s = old.stat().st_mtime - NEW_S - 1
    os.utime(old, (past_s, past_s))
    make_private(tmp_path / OWN)
    assert sweep_siblings(tmp_path / OWN) == 1
    assert young.exists()
    assert not old.exists()


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    target = left_behind(tmp_path / "target")
    (tmp_path / OTHER).symlink_to(target)
    with held(tmp_path / OWN):
        assert (target / CONTROL_SOCKET).exists()
    with pytest.raises(ConfigurationError, match="belongs to somebody else"), held(tmp_path / OTHER):
        pass


def test_only_folders_named_as_ours_have_siblings(tmp_path: Path) -> None:
    dead = left_behind(tmp_path / OTHER)
    with held(tmp_path / "run"):
        assert dead.exists()
