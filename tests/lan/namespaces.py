"""Sockets inside another network namespace, without a process there: a socket belongs to the one it was made in."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

NAMESPACES = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def inside_namespace(name: str) -> Iterator[None]:
    """What this thread opens meanwhile (sockets, TAP devices) is the namespace's. Other threads are not affected."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(there)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(there)
        os.close(before)


def _enter(descriptor: int) -> None:
    any_kind = 0
    if _libc.setns(descriptor, any_kind) != 0:
        raise OSError(ctypes.get_errno(), "setns")
