"""Ballot and known machines on disk: whole or not at all, corrupt files tolerated, off the loop's thread."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.events import Promise
from covey_mesh.core.names import NodeId
from covey_mesh.core.timing import LAN
from covey_mesh.io import ballot_store, peer_cache
from covey_mesh.io.ballot_store import BallotStore
from covey_mesh.io.checked_json import CorruptFile
from covey_mesh.io.disk_worker import DiskWorker
from covey_mesh.io.peer_cache import CACHED_PEERS_MAX, PeerCache

A, B = NodeId("a" * 32), NodeId("b" * 32)
PROMISE = Promise(Ballot(12, A), 1.75)


@pytest.fixture
def worker() -> Iterator[DiskWorker]:
    worker = DiskWorker()
    yield worker
    worker.close()


async def saved(store: BallotStore, promise: Promise) -> Exception | None:
    future: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
    threads = []

    def done(error: Exception | None) -> None:
        threads.append(threading.current_thread())
        future.set_result(error)

    store.save(promise, done)
    assert not future.done(), "never from inside save"
    error = await future
    assert threads == [threading.main_thread()]
    return error


@pytest.mark.asyncio
async def test_a_promise_survives(tmp_path: Path, worker: DiskWorker) -> None:
    store = BallotStore(tmp_path, worker)
    assert store.load() is None
    assert await saved(store, PROMISE) is None
    assert BallotStore(tmp_path, worker).load() == PROMISE
    assert os.listdir(tmp_path) == [ballot_store.FILE_NAME], "nothing temporary is left"


@pytest.mark.asyncio
async def test_a_write_that_fails_is_reported_and_changes_nothing(tmp_path: Path, worker: DiskWorker) -> None:
    store = BallotStore(tmp_path, worker)
    await saved(store, PROMISE)
    lost = BallotStore(tmp_path / "missing", worker)
    assert await saved(lost, Promise(Ballot(99, B), 1.0)) is not None
    assert store.load() == PROMISE


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        ballot_store.encode(PROMISE)[:-3],
        ballot_store.encode(PROMISE).replace(b"12", b"13"),
        b"x" * 100_000,
    ],
    ids=["empty", "zeros", "torn", "flipped", "huge"],
)
def test_what_cannot_be_read_makes_the_machine_abstain_and_is_kept_aside(
    content: bytes, tmp_path: Path, worker: DiskWorker, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ballot_store.FILE_NAME).write_bytes(content)
    store = BallotStore(tmp_path, worker)
    with caplog.at_level(logging.WARNING):
        assert store.load() == Promise(NO_BALLOT, LAN.lease_max_s)
    assert "cannot be read" in caplog.text
    assert (tmp_path / "ballot.corrupt").exists()
    assert store.load() == Promise(NO_BALLOT, LAN.lease_max_s)


@pytest.mark.parametrize(
    "values",
    [
        {"counter": -1, "node_id": A, "lease_s": 1},
        {"counter": 2**63, "node_id": A, "lease_s": 1},
        {"counter": 1.5, "node_id": A, "lease_s": 1},
        {"counter": 1, "node_id": "nobody", "lease_s": 1},
        {"counter": 1, "node_id": A, "lease_s": -1},
        {"counter": 1, "node_id": A, "lease_s": float("nan")},
        {"counter": 1, "node_id": A},
        [],
    ],
)
def test_values_out_of_bounds_are_corrupt(values: object) -> None:
    line = json.dumps(values).encode()
    with pytest.raises(CorruptFile):
        ballot_store.decode(line + b"\n%08x\n" % zlib.crc32(line))


@pytest.mark.asyncio
async def test_known_machines_survive_and_are_bounded(tmp_path: Path) -> None:
    worker = DiskWorker()
    cache = PeerCache(tmp_path, worker)
    assert list(cache.load()) == []
    cache.save([(NodeId(f"{n:032x}"), (f"10.0.{n // 250}.{n % 250}:7420",)) for n in range(1000)])
    worker.close()
    loaded = cache.load()
    assert len(loaded) == CACHED_PEERS_MAX
    assert loaded[0] == (NodeId(f"{0:032x}"), ("10.0.0.0:7420",))
    await asyncio.sleep(0)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"peers": 5}', b"\xff\xfe", b"[" * 5000])
def test_an_unreadable_list_is_ignored(content: bytes, tmp_path: Path, worker: DiskWorker) -> None:
    (tmp_path / peer_cache.FILE_NAME).write_bytes(content)
    assert list(PeerCache(tmp_path, worker).load()) == []


def test_entries_that_make_no_sense_are_left_out() -> None:
    good = {"node_id": A, "addresses": ["10.0.0.1:7420", 5, "nonsense"]}
    bad = [
        7,
        {},
        {"node_id": "x", "addresses": []},
        {"node_id": A, "addresses": "h:1"},
        {"node_id": B, "addresses": []},
    ]
    content = json.dumps({"peers": [*bad, good]}).encode()
    assert peer_cache.decode(content) == [(A, ("10.0.0.1:7420",))]
