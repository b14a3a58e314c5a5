"""Machines met before, on disk: what lets a pool find itself again where multicast is blocked.

Addresses only, no trust: whoever answers there still proves its key. Losing the file loses nothing but time.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from covey_mesh.core.dialing import ADDRESSES_MAX, is_address
from covey_mesh.core.names import NodeId, is_id
from covey_mesh.core.stores import KnownPeer
from covey_mesh.io.disk_worker import DiskWorker
from covey_mesh.io.state_files import PUBLIC_MODE, write_atomically

FILE_NAME = "peers.json"

CACHED_PEERS_MAX = 256
"""The latest seen are kept; any few of them are enough to hear of all others."""

FILE_BYTES_MAX = 1024 * 1024

_log = logging.getLogger(__name__)


class PeerCache:
    """See covey_mesh.core.stores.PeerStore. `directory` must exist."""

    def __init__(self, directory: Path, worker: DiskWorker) -> None:
        self._path = directory / FILE_NAME
        self._worker = worker

    def load(self) -> Sequence[KnownPeer]:
        """Whatever of the file makes sense."""
        try:
            with self._path.open("rb") as file:
                return decode(file.read(FILE_BYTES_MAX + 1))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, RecursionError) as error:
            _log.warning(
                "the list of known machines cannot be read and is ignored; it is rebuilt as machines are met",
                extra={"file": str(self._path), "cause": str(error)},
            )
            return []

    def save(self, peers: Sequence[KnownPeer]) -> None:
        """See PeerStore."""
        content = encode(peers)
        self._worker.run(lambda: write_atomically(self._path, content, PUBLIC_MODE), self._saved)

    def _saved(self, error: Exception | None) -> None:
        if error is not None:
            _log.warning("the list of known machines was not saved: %s", error, extra={"file": str(self._path)})


def encode(peers: Sequence[KnownPeer]) -> bytes:
    kept = [{"node_id": node_id, "addresses": list(addresses)} for node_id, addresses in peers[:CACHED_PEERS_MAX]]
    return json.dumps({"peers": kept}, indent=1).encode()


def decode(content: bytes) -> list[KnownPeer]:
    """Entries that make no sense are left out. Raises ValueError if the whole does not."""
    if len(content) > FILE_BYTES_MAX:
        raise ValueError("larger than it could ever be")
    values = json.loads(content)
    entries = values.get("peers") if isinstance(values, dict) else None
    if not isinstance(entries, list):
        raise ValueError("no list of peers")
    read = [_entry(entry) for entry in entries[:CACHED_PEERS_MAX]]
    return [peer for peer in read if peer is not None]


def _entry(entry: object) -> KnownPeer | None:
    if not isinstance(entry, dict):
        return None
    node_id, addresses = entry.get("node_id"), entry.get("addresses")
    if not isinstance(node_id, str) or not is_id(node_id) or not isinstance(addresses, list):
        return None
    good = tuple(a for a in addresses[:ADDRESSES_MAX] if isinstance(a, str) and is_address(a))
    return (NodeId(node_id), good) if good else None
