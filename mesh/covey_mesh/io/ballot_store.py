"""The promised ballot on disk: replaced as a whole and flushed before anybody is told of it.

An unreadable file is no licence to forget: it is kept aside and counts as a promise of unknown content, so that the
machine abstains for the longest lease there is. Not here: what a promise means (core/grants.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from covey_mesh.core.ballot import COUNTER_MAX, NO_BALLOT, Ballot
from covey_mesh.core.events import Promise
from covey_mesh.core.names import NodeId, is_id
from covey_mesh.core.timing import LAN
from covey_mesh.io.checked_json import CorruptFile, decode_checked, encode_checked
from covey_mesh.io.disk_worker import DiskWorker
from covey_mesh.io.state_files import PUBLIC_MODE, write_atomically

FILE_NAME = "ballot.json"
FILE_BYTES_MAX = 4096

_log = logging.getLogger(__name__)


class BallotStore:
    """See covey_mesh.core.stores.PromiseStore. `directory` must exist."""

    def __init__(self, directory: Path, worker: DiskWorker, lease_max_s: float = LAN.lease_max_s) -> None:
        self._path = directory / FILE_NAME
        self._worker = worker
        self._lease_max_s = lease_max_s

    def load(self) -> Promise | None:
        """Raises OSError where the directory itself cannot be read."""
        try:
            with self._path.open("rb") as file:
                return decode(file.read(FILE_BYTES_MAX + 1))
        except FileNotFoundError:
            return None
        except CorruptFile as error:
            aside = self._path.with_suffix(".corrupt")
            self._path.replace(aside)
            _log.warning(
                "the stored ballot cannot be read; this machine grants no leader for %g s, nothing else to do",
                self._lease_max_s,
                extra={"file": str(aside), "cause": str(error)},
            )
            promise = Promise(NO_BALLOT, self._lease_max_s)
            write_atomically(self._path, encode(promise), PUBLIC_MODE)
            return promise

    def save(self, promise: Promise, done: Callable[[Exception | None], None]) -> None:
        """See PromiseStore."""
        self._worker.run(lambda: write_atomically(self._path, encode(promise), PUBLIC_MODE), done)


def encode(promise: Promise) -> bytes:
    """A line of JSON, and its checksum on a second."""
    ballot = promise.ballot
    return encode_checked({"counter": ballot.counter, "node_id": ballot.node_id, "lease_s": promise.lease_s})


def decode(content: bytes) -> Promise:
    """Raises CorruptFile."""
    values = decode_checked(content)
    try:
        counter, node_id, lease_s = values["counter"], values["node_id"], float(values["lease_s"])
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(f"not a ballot: {error!r}") from error
    whole = isinstance(counter, int) and 0 <= counter <= COUNTER_MAX and isinstance(node_id, str)
    if not whole or not 0 <= lease_s <= 3600 or (counter > 0 and not is_id(node_id)):
        raise CorruptFile("values out of bounds")
    return Promise(Ballot(counter, NodeId(node_id)), lease_s)
