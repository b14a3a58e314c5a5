"""Small files in the state directory, written so that a crash leaves the old or the new content and never half of it.

The directory is 0700 and a secret file 0600 from its first byte. Not here: what the files mean.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644


class StateFileError(Exception):
    """The state directory cannot be used as it is; the message says what to do."""


class PermissionsError(StateFileError):
    """A secret is readable by others, or this user may not read or write the state directory."""


def make_directory(directory: Path) -> None:
    """Create it 0700 (parents too); an existing one is made private. Raises PermissionsError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise PermissionsError(f"cannot use {directory}: {error.strerror}; choose a directory of your own") from error


def write_atomically(path: Path, content: bytes, mode: int) -> None:
    """Write beside, flush to disk, rename over. Raises PermissionsError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _flush_directory(path.parent)
    except OSError as error:
        raise PermissionsError(f"cannot write {path}: {error.strerror}; check its owner and free space") from error
    finally:
        temporary.unlink(missing_ok=True)


def read_secret(path: Path) -> bytes:
    """Refuses a file that others may read: whoever could copy it can pretend to be this machine. Raises
    FileNotFoundError, PermissionsError."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except PermissionError as error:
        raise PermissionsError(f"{path} belongs to another user; run covey as that user") from error
    if mode & 0o077:
        raise PermissionsError(f"{path} is open to other users (mode {mode:04o}); run: chmod 600 {path}")
    return content


@contextlib.contextmanager
def locked(directory: Path, name: str) -> Iterator[None]:
    """Held by one process at a time (the command line and the agent share the directory); ends with the process."""
    descriptor = os.open(directory / f".{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, SECRET_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
