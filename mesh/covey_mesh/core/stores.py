"""What the mesh needs of a disk, as seams: real files in io/ballot_store.py and io/peer_cache.py, memory in tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from covey_mesh.core.events import Promise
from covey_mesh.core.names import NodeId

KnownPeer = tuple[NodeId, tuple[str, ...]]
"""A machine and its HOST:PORT addresses, best first."""


class PromiseStore(Protocol):
    """The one thing that leadership must remember over a restart."""

    def load(self) -> Promise | None:
        """None if nothing was ever promised here. What cannot be read counts as a promise of unknown content."""

    def save(self, promise: Promise, done: Callable[[Exception | None], None]) -> None:
        """Write durably, then call `done` with None or the error; on the loop's thread, never from inside `save`."""


class PeerStore(Protocol):
    """Machines met before, for a network without multicast."""

    def load(self) -> Sequence[KnownPeer]:
        """Latest seen first; empty if there is nothing readable."""

    def save(self, peers: Sequence[KnownPeer]) -> None:
        """Soon, without blocking; a failure is logged, not raised."""
