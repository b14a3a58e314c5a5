"""The agent's runtime folder while it runs: private, its own, gone afterwards; and those that killed agents left.

A lock file in the folder is held for the agent's life; the kernel gives it back however the process ends. A folder
whose lock is free belongs to nobody: the next agent of this user removes it, with engines that it may still name.
Not here: where the folder is (places.py), what is in it (the gateway's socket, covey_node.io.runtime_files).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from covey.errors import ConfigurationError
from covey.places import CONTROL_SOCKET, make_private
from covey_node.io import runtime_files

LOCK_NAME = "agent.lock"
TRIES_MAX = 5
"""To take the lock of a folder that another agent is removing at this moment."""

SWEPT_MAX = 1024
"""Folders looked at in one start."""

NEW_S = 60.0
"""A folder without a lock file is left alone when younger: its agent may be just about to make one."""

_TAG = re.compile(r"[0-9a-f]{8}")
_OURS = re.compile(rf"{re.escape(CONTROL_SOCKET)}|{re.escape(LOCK_NAME)}|[0-9a-f]{{12}}\.(sock|engine|new)")
"""Names of the agent's own files: the folder may be a shared one that somebody configured."""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make `folder`, hold it, remove it at the end. Raises ConfigurationError where another agent holds it."""
    descriptor = _take(folder)
    try:
        sweep_siblings(folder)
        yield
    finally:
        _clear(folder)
        os.close(descriptor)


def _take(folder: Path) -> int:
    for _ in range(TRIES_MAX):
        make_private(folder)
        try:
            descriptor = _locked(folder)
        except FileNotFoundError:  # the folder was removed meanwhile
            continue
        if descriptor is not None and _still_there(folder, descriptor):
            return descriptor
        if descriptor is not None:
            os.close(descriptor)
    raise ConfigurationError(
        f"another agent uses {folder}", "`covey down` stops it; a second agent needs another --runtime-dir"
    )


def _locked(folder: Path) -> int | None:
    """None where another process holds it."""
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _still_there(folder: Path, descriptor: int) -> bool:
    """False if the file was removed between opening and locking it."""
    try:
        return os.path.samestat(os.stat(folder / LOCK_NAME), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def sweep_siblings(folder: Path) -> int:
    """Remove folders beside this one that no living agent holds; returns how many. Others' files are never touched."""
    parent = folder.parent
    if not _TAG.fullmatch(folder.name) or os.lstat(parent).st_uid != os.getuid():
        return 0
    with os.scandir(parent) as entries:
        names = [e.name for e, _ in zip(entries, range(SWEPT_MAX), strict=False) if _TAG.fullmatch(e.name)]
    return sum(_sweep(parent / name) for name in names if name != folder.name)


def _sweep(folder: Path) -> bool:
    """True if it is gone now."""
    try:
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            return False
        if not (folder / LOCK_NAME).exists() and time.time() - found.st_mtime < NEW_S:
            return False
        descriptor = _locked(folder)
    except OSError:
        return False
    if descriptor is None:
        return False
    try:
        runtime_files.sweep(folder)
        return _clear(folder)
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> bool:
    """Only what agents put there; a folder that holds anything else stays. True if it is gone."""
    try:
        for path in list(folder.iterdir()):
            if _OURS.fullmatch(path.name):
                path.unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return False
    return True
