"""Ports for the demo: the usual ones where they are free, else whatever the system gives."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Addresses:
    """One agent's, HOST:PORT each."""

    http: str
    grpc: str
    link: str
    enrol: str


def choose(preferred: tuple[tuple[int, int, int, int], ...]) -> list[Addresses]:
    """Addresses for so many agents (0: any port); every port differs from every other."""
    taken: set[int] = set()
    return [Addresses(*(f"{LOOPBACK}:{_port(port, taken)}" for port in ports)) for ports in preferred]


def _port(preferred: int, taken: set[int]) -> int:
    usable = preferred and preferred not in taken and _is_free(preferred)
    port = preferred if usable else _any_free(taken)
    taken.add(port)
    return port


def _is_free(port: int) -> bool:
    """Nothing listens there, on this address or on all."""
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def _any_free(taken: set[int]) -> int:
    while True:
        with contextlib.closing(socket.socket()) as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        if port not in taken:
            return port
