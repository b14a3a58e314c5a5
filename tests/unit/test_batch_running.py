"""Batches from the upload to the result files, with a front door that answers at once: ends of every kind, restarts,
a full disk, and a kill before any statement to the database.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.support.batches import (
    ENDS_WITHIN_S,
    FakeDoor,
    Killed,
    Machine,
    MortalDatabase,
    answer_200,
    line,
    read_lines,
)

from covey_gateway.core.batches.objects import PageQuery
from covey_gateway.core.batches.settings import BatchSettings
from covey_gateway.core.batches.state import Batch, Status
from covey_gateway.core.errors import Code, GatewayError
from covey_gateway.core.front import IncomingRequest
from covey_gateway.io.batches import library as library_module
from covey_gateway.io.batches import runner as runner_module
from covey_gateway.io.batches.database import PAGE_BYTES, Database, StorageFullError
from covey_gateway.io.batches.files import FileStore
from covey_gateway.io.batches.library import BatchLibrary

QUICK = BatchSettings(retry_first_s=0.001, retry_max_s=0.002, full_retry_s=0.01, model_wait_s=0.001)


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(ENDS_WITHIN_S):
        while True:
            if condition():
                return
            await asyncio.sleep(0.001)


def lines(count: int) -> bytes:
    return b"".join(line(f"id-{i}", seed=i) for i in range(count))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def custom_ids(*found: list[dict[str, Any]]) -> Counter[str]:
    return Counter(each["custom_id"] for part in found for each in part)


@pytest.mark.asyncio
async def test_every_line_is_answered_in_the_order_of_the_input(tmp_path: Path) -> None:
    door = FakeDoor()
    async with Machine(tmp_path, door, QUICK) as machine:
        made = await machine.create(await machine.upload(lines(700), user="ann"), user="ann")
        batch = await machine.ended(made.id, "ann")
        output, errors = await machine.results(batch)
        assert [each["custom_id"] for each in output] == [f"id-{i}" for i in range(700)]
        assert [each["response"]["body"]["echo"]["seed"] for each in output] == list(range(700))
        assert errors == []
    assert batch.status is Status.COMPLETED
    assert (batch.total, batch.completed, batch.failed, batch.error_file_id) == (700, 700, 0, "")
    assert batch.tokens.input_tokens == 3 * 700
    assert {(r.user, r.priority, r.path) for r in door.requests} == {("ann", 2, "/v1/chat/completions")}
    assert 1 < door.open_most <= 6, "as many as the pool takes, and a few ahead"


@pytest.mark.asyncio
async def test_a_bad_file_fails_before_anything_is_asked(tmp_path: Path) -> None:
    door = FakeDoor()
    async with Machine(tmp_path, door, QUICK) as machine:
        made = await machine.create(await machine.upload(line("a") + b"{\n" + line("a")))
        batch = await machine.ended(made.id)
        database = machine.library._database
        assert database is not None
        assert await machine.library.thread.call(database.rows, "SELECT * FROM lines") == []
    assert batch.status is Status.FAILED
    assert [(e.code, e.line) for e in batch.errors] == [("invalid_json_line", 2), ("duplicate_custom_id", 3)]
    assert not door.requests


@pytest.mark.asyncio
async def test_a_model_that_nobody_has(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor(), QUICK, model="other") as machine:
        batch = await machine.ended((await machine.create(await machine.upload(line("a")))).id)
    assert [e.code for e in batch.errors] == ["model_not_found"]


@pytest.mark.asyncio
async def test_refused_lines_go_to_the_error_file(tmp_path: Path) -> None:
    def script(request: IncomingRequest, asked_before: int) -> tuple[int, bytes]:
        seed = json.loads(request.body)["seed"]
        return (400, b'{"error": {"code": "x"}}') if seed % 3 == 0 else answer_200(request, asked_before)

    async with Machine(tmp_path, FakeDoor(script), QUICK) as machine:
        batch = await machine.ended((await machine.create(await machine.upload(lines(10)))).id)
        output, errors = await machine.results(batch)
    assert (batch.status, batch.completed, batch.failed) == (Status.COMPLETED, 6, 4)
    assert [each["custom_id"] for each in errors] == ["id-0", "id-3", "id-6", "id-9"]
    assert custom_ids(output, errors) == Counter(f"id-{i}" for i in range(10))


@pytest.mark.asyncio
async def test_busy_and_failing_lines_are_asked_again(tmp_path: Path) -> None:
    def script(request: IncomingRequest, asked_before: int) -> tuple[int, bytes]:
        if asked_before < 20:
            return 503, b'{"error": {"code": "pool_busy"}}'
        return (500, b"{}") if asked_before < 22 else answer_200(request, asked_before)

    async with Machine(tmp_path, FakeDoor(script), QUICK) as machine:
        batch = await machine.ended((await machine.create(await machine.upload(lines(5)))).id)
    assert (batch.completed, batch.failed) == (5, 0)


@pytest.mark.asyncio
async def test_cancelling_aborts_what_is_in_flight(tmp_path: Path) -> None:
    def script(request: IncomingRequest, asked_before: int) -> tuple[int, bytes] | None:
        return answer_200(request, 0) if json.loads(request.body)["seed"] < 3 else None

    door = FakeDoor(script)
    async with Machine(tmp_path, door, QUICK) as machine:
        made = await machine.create(await machine.upload(lines(1500)))
        await machine.reached(made.id, lambda batch: batch.completed == 3)
        assert (await machine.library.cancel("", made.id)).status is Status.CANCELLING
        machine.runner.wake(made.id)
        batch = await machine.ended(made.id)
        output, errors = await machine.results(batch)
        assert machine.runner.in_flight == 0
    assert batch.status is Status.CANCELLED
    assert custom_ids(output, errors) == Counter(f"id-{i}" for i in range(1500))
    assert len(output) == 3
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}
    assert sum(active.cancelled for active in door.actives) == len(door.actives) - 3


@pytest.mark.asyncio
async def test_a_batch_ends_when_its_time_is_over(tmp_path: Path) -> None:
    def script(request: IncomingRequest, asked_before: int) -> tuple[int, bytes] | None:
        return answer_200(request, 0) if json.loads(request.body)["seed"] < 3 else None

    async with Machine(tmp_path, FakeDoor(script), QUICK) as machine:
        made = await machine.create(await machine.upload(lines(8)), window_s=60)
        await machine.reached(made.id, lambda batch: batch.completed == 3)
        machine.now_s += 60
        batch = await machine.ended(made.id)
        output, errors = await machine.results(batch)
    assert (batch.status, len(output), len(errors)) == (Status.EXPIRED, 3, 5)
    assert {each["error"]["code"] for each in errors} == {"batch_expired"}


@pytest.mark.asyncio
async def test_two_batches_of_one_model_share_the_window(tmp_path: Path) -> None:
    door = FakeDoor(lambda request, _: None)
    async with Machine(tmp_path, door, QUICK, running_limit=20) as machine:
        made = [await machine.create(await machine.upload(lines(200)), "") for _ in range(2)]
        for batch in made:
            await machine.reached(batch.id, lambda batch: batch.status is Status.IN_PROGRESS)
        await becomes(lambda: machine.runner.in_flight == machine.runner.window("m").size)
        assert machine.runner.in_flight == 23


@pytest.mark.asyncio
async def test_a_user_with_many_batches_has_no_more_of_the_window(tmp_path: Path) -> None:
    door = FakeDoor(lambda request, _: None)
    async with Machine(tmp_path, door, QUICK, running_limit=20) as machine:
        for user in ("ann", "ann", "ann", "ben"):
            made = await machine.create(await machine.upload(lines(200), user), user)
            await machine.reached(made.id, lambda batch: batch.status is Status.IN_PROGRESS, user)
        await becomes(lambda: machine.runner.in_flight >= 23)
        # Those who came first have filled it: as their lines end, the shares become even.
        for _ in range(40):
            for active in [each for each in door.actives if not each.cancelled][:5]:
                active.cancelled = True
                machine.finish(active)
            await asyncio.sleep(0.002)
        await becomes(lambda: machine.runner.in_flight == 23)
        share = Counter(job.batch.user for job in machine.runner._jobs.values() for _ in range(job.in_flight))
        assert share["ben"] >= 11


@pytest.mark.asyncio
async def test_a_disk_that_cannot_be_read_for_a_moment_loses_no_line(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor(), QUICK) as machine:
        span, left = machine.library.files.span, 3

        def failing(file_id: str, place: int, length: int) -> bytes:
            nonlocal left
            left -= 1
            if left >= 0:
                raise sqlite3.OperationalError("disk I/O error")
            return span(file_id, place, length)

        file_id = await machine.upload(lines(20))
        machine.library.files.span = failing  # type: ignore[method-assign]
        batch = await machine.ended((await machine.create(file_id)).id)
        output, errors = await machine.results(batch)
        assert machine.runner.in_flight == 0
    assert left < 0
    assert custom_ids(output, errors) == Counter(f"id-{i}" for i in range(20))


@pytest.mark.asyncio
async def test_a_restart_asks_only_what_was_not_answered(tmp_path: Path) -> None:
    def some(request: IncomingRequest, asked_before: int) -> tuple[int, bytes] | None:
        return answer_200(request, 0) if json.loads(request.body)["seed"] < 4 else None

    first, second = FakeDoor(some), FakeDoor()
    async with Machine(tmp_path, first, QUICK, running_limit=40) as machine:
        made = await machine.create(await machine.upload(lines(20)))
        await machine.reached(made.id, lambda batch: batch.completed == 4)
    async with Machine(tmp_path, second, QUICK) as machine:
        batch = await machine.ended(made.id)
        output, errors = await machine.results(batch)
    assert custom_ids(output, errors) == Counter(f"id-{i}" for i in range(20))
    assert sorted(json.loads(body)["seed"] for body in second.asked) == list(range(4, 20))
    assert max(second.asked.values()) == 1


@pytest.mark.asyncio
async def test_an_agent_that_stops_lets_its_lines_finish_and_starts_no_more(tmp_path: Path) -> None:
    door, later = FakeDoor(lambda request, _: None), FakeDoor()
    async with Machine(tmp_path, door, QUICK, running_limit=4) as machine:
        made = await machine.create(await machine.upload(lines(20)))
        await becomes(lambda: len(door.requests) == 5)
        stopping = asyncio.ensure_future(machine.runner.stop(10.0))
        await becomes(lambda: machine.runner.stopping)
        for active in door.actives[:5]:
            machine.finish(active)
        await stopping
        assert len(door.requests) == 5
        assert (await machine.library.batch("", made.id)).completed == 5
    async with Machine(tmp_path, later, QUICK) as machine:
        assert (await machine.ended(made.id)).completed == 20
    assert len(later.requests) == 15


# --- kills ------------------------------------------------------------------------------------------------------------


async def live_until_killed(folder: Path, door: FakeDoor, statements: int, deed: Callable[[Machine], Any]) -> bool:
    """A life that ends before its `statements`-th statement. True if it came through to the end of `deed`."""
    machine = Machine(folder, door, QUICK)
    library = machine.library
    assert await library.open()
    database = library._database
    assert isinstance(database, MortalDatabase)
    database.statements_left = statements
    doing = asyncio.ensure_future(deed(machine))
    try:
        await machine.runner.start()
        await becomes(lambda: doing.done() or database.statements_left <= 0)
        if doing.done():
            doing.result()
        return database.statements_left > 0
    except Killed:
        return False
    finally:
        # A killed process writes nothing more and closes nothing properly: what was not committed is gone.
        database.statements_left = 0
        doing.cancel()
        machine.runner.stopping = True
        tasks = [doing, *machine.runner._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await library.thread.call(database._connection.close)
        library.thread.close()


@pytest.mark.asyncio
async def test_killed_before_any_statement_every_line_is_still_there_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch with answers, refusals and a line that fails at first, killed at every step, then run to its end."""
    monkeypatch.setattr(library_module, "Database", MortalDatabase)

    def script(request: IncomingRequest, asked_before: int) -> tuple[int, bytes]:
        seed = json.loads(request.body)["seed"]
        if seed == 2 and not asked_before:
            return 500, b"{}"
        return (400, b"{}") if seed == 1 else answer_200(request, asked_before)

    statements, came_through = 1, False
    while not came_through:
        folder, door = tmp_path / str(statements), FakeDoor(script)
        made: list[Batch] = []

        async def deed(machine: Machine, made: list[Batch] = made) -> None:
            made.append(await machine.create(await machine.upload(lines(5))))
            await machine.ended(made[0].id)

        came_through = await live_until_killed(folder, door, statements, deed)
        await check_after(folder, door, [batch.id for batch in made])
        statements += 1
    print("statements", statements)
    assert statements > 40


async def check_after(folder: Path, door: FakeDoor, promised: list[str]) -> None:
    """A new life on the same disk."""
    on_disk = answered_on_disk(folder)
    later = FakeDoor(door.script, Counter(door.asked))
    async with Machine(folder, later, QUICK) as machine:
        kept = {batch.id for batch in await machine.library.batch_page("", PageQuery("batch_", 10))}
        assert set(promised) <= kept, "a batch that the client was told of is gone"
        for batch_id in kept:
            batch = await machine.ended(batch_id)
            output, errors = await machine.results(batch)
            assert batch.status is Status.COMPLETED
            assert custom_ids(output, errors) == Counter(f"id-{i}" for i in range(5))
            assert [each["custom_id"] for each in errors] == ["id-1"]
            assert (batch.completed, batch.failed) == (4, 1)
            made = await machine.library.file_page("", PageQuery("file-", 10, purpose="batch_output"))
            assert {file.id for file in made} == {batch.output_file_id, batch.error_file_id}
        asked_again = {json.loads(request.body)["seed"] for request in later.requests}
        assert not asked_again & on_disk, "a line whose answer was on disk was asked again"


def answered_on_disk(folder: Path) -> set[int]:
    connection = sqlite3.connect(folder / "batches.db")
    rows = connection.execute("SELECT number FROM results").fetchall()
    connection.close()
    return {number - 1 for (number,) in rows}


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_a_full_disk_stops_a_batch_and_loses_nothing(tmp_path: Path) -> None:
    big = {"text": "x" * 20_000}

    def script(request: IncomingRequest, asked_before: int) -> tuple[int, bytes]:
        return 200, json.dumps(big).encode()

    door = FakeDoor(script)
    async with Machine(tmp_path, door, QUICK) as machine:
        made = await machine.create(await machine.upload(lines(100)))
        database = machine.library._database
        assert database is not None
        await machine.library.thread.call(database.run, "PRAGMA max_page_count = 60")
        await becomes(lambda: "full" in machine.runner.waits_for(made.id))
        with pytest.raises(GatewayError) as caught:
            await machine.upload(b"x" * 2**20)
        assert (caught.value.status, caught.value.code) == (507, Code.STORAGE_FULL)
        await machine.library.thread.call(database.run, "PRAGMA max_page_count = 100000")
        batch = await machine.ended(made.id)
        output, errors = await machine.results(batch)
    assert custom_ids(output, errors) == Counter(f"id-{i}" for i in range(100))
    assert max(door.asked.values()) == 1, "an answer was lost and asked for again"


@pytest.mark.asyncio
async def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    settings = BatchSettings(storage_bytes_max=1000, files_max=3, file_bytes_max=600)
    async with Machine(tmp_path, FakeDoor(), settings) as machine:
        first = await machine.upload(b"x" * 600)
        with pytest.raises(GatewayError, match="600 of 1000"):
            await machine.upload(b"x" * 500)
        with pytest.raises(GatewayError) as caught:
            await machine.upload(b"x" * 601)
        assert caught.value.status == 413
        await machine.upload(b"")
        await machine.upload(b"")
        with pytest.raises(GatewayError, match="3 files"):
            await machine.upload(b"")
        await machine.library.delete_file("", first)
        await machine.upload(b"x" * 600)


@pytest.mark.asyncio
async def test_a_database_that_is_none_leaves_the_rest_working(tmp_path: Path) -> None:
    (tmp_path / "batches.db").write_bytes(b"not a database" * 1000)
    library = Machine(tmp_path, FakeDoor()).library
    assert not await library.open()
    with pytest.raises(GatewayError, match="move it away") as caught:
        await library.batch("", "batch_1")
    assert caught.value.status == 503
    await library.close()


@pytest.mark.asyncio
async def test_uploads_leave_room_on_the_disk_and_answers_some_of_it(tmp_path: Path) -> None:
    door = FakeDoor()
    settings = BatchSettings(disk_left_bytes=1000, disk_left_by_answers_bytes=10)
    async with Machine(tmp_path, door, settings) as machine:
        database = machine.library._database
        assert database is not None
        assert database.free_bytes() > 0
        free = [5000]
        database.free_bytes = lambda: free[0]  # type: ignore[method-assign]
        file_id = await machine.upload(lines(1))
        free[0] = 900
        with pytest.raises(GatewayError, match="stay free") as caught:
            await machine.upload(b"x")
        assert caught.value.code is Code.STORAGE_FULL
        assert (await machine.ended((await machine.create(file_id)).id)).completed == 1
        free[0] = 9
        waiting = await machine.create(file_id)
        await becomes(lambda: "stay free" in machine.runner.waits_for(waiting.id))


@pytest.mark.asyncio
async def test_an_agent_starts_on_a_full_disk_and_lets_go_of_what_was_left_there_later(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor()) as machine:
        await machine.library.begin_upload("")
        database = machine.library._database
        assert database is not None
        await machine.library.thread.call(database.run, "INSERT INTO chunks VALUES (1, 'file-x', 0, zeroblob(100000))")
    library = Machine(tmp_path, FakeDoor()).library
    with patch.object(FileStore, "drop", side_effect=StorageFullError("full")):
        assert await library.open()
        assert (await library.used())[1] == 1
        with pytest.raises(GatewayError, match="full"):
            await library.delete_expired()
    await library.delete_expired()
    assert (await library.used())[1] == 0
    await library.close()


@pytest.mark.asyncio
async def test_a_disk_that_stays_full_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runner_module, "UPKEEP_S", 0.0)
    looks = 0

    def full(*_: object) -> None:
        nonlocal looks
        looks += 1
        raise StorageFullError("full")

    with patch.object(FileStore, "expired", side_effect=full):
        async with Machine(tmp_path, FakeDoor()):
            await becomes(lambda: looks > 3)
    assert [record.getMessage() for record in caplog.records].count(
        "files and batches were not looked after: No room: full."
    ) == 1


@pytest.mark.asyncio
async def test_what_was_deleted_is_free_again_and_soon_outside_of_the_file_too(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor()) as machine:
        database, call = machine.library._database, machine.library.call
        assert database is not None
        await call(database.run, "PRAGMA wal_autocheckpoint = 0")
        with patch("os.statvfs", return_value=os.statvfs(tmp_path)):
            empty = await call(database.free_bytes)
            with patch.object(Database, "give_back"):
                await machine.library.delete_file("", await machine.upload(b"x" * 2**20))
            assert await call(database.free_bytes) >= empty + 2**20
        assert size_of(tmp_path) > 2**20
        await machine.library.delete_expired()
        assert size_of(tmp_path) < 2**19


@pytest.mark.asyncio
async def test_an_upload_under_way_is_not_taken_for_one_that_was_left(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor()) as machine:
        async with await machine.library.begin_upload("") as upload:
            await upload.write(b"x" * 300_000)
            await machine.library.delete_expired()
            await upload.write(b"y" * 300_000)
            made = await upload.finish("f", "batch", 0)
        assert await machine.content(made.id) == b"x" * 300_000 + b"y" * 300_000


@pytest.mark.asyncio
async def test_a_damaged_database_leaves_the_rest_working(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor(lambda request, _: None)) as machine:
        for _ in range(3):
            await machine.create(await machine.upload(lines(500)))
    path = tmp_path / "batches.db"
    content = bytearray(path.read_bytes())
    assert len(content) > 5 * PAGE_BYTES
    for damaged in range(1, len(content) // PAGE_BYTES):
        # Whichever page it is: the agent starts, and says what is wrong or does what it can.
        copy = tmp_path / str(damaged)
        copy.mkdir()
        start = damaged * PAGE_BYTES
        (copy / "batches.db").write_bytes(content[:start] + b"\xff" * PAGE_BYTES + content[start + PAGE_BYTES :])
        machine = Machine(copy, FakeDoor(lambda request, _: None))
        if await machine.library.open():
            await machine.runner.start()
        await machine.runner.stop(0)
        await machine.library.close()


# --- whose it is, and for how long ------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_nobody_sees_what_is_anothers(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor(), QUICK) as machine:
        library = machine.library
        file_id = await machine.upload(lines(2), user="ann")
        batch = await machine.ended((await machine.create(file_id, user="ann")).id, "ann")
        for user in ("ben", ""):
            for deed in (
                library.file(user, file_id),
                library.file(user, batch.output_file_id),
                library.delete_file(user, file_id),
                library.batch(user, batch.id),
                library.cancel(user, batch.id),
                library.results_after(user, batch.id, 0),
                machine.create(file_id, user),
            ):
                with pytest.raises(GatewayError) as caught:
                    await deed
                assert caught.value.status == 404
            assert await library.file_page(user, PageQuery("file-", 10)) == []
            assert await library.batch_page(user, PageQuery("batch_", 10)) == []


@pytest.mark.asyncio
async def test_files_go_when_their_time_is_over_and_not_while_they_are_read(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor(lambda request, _: None), QUICK) as machine:
        library = machine.library
        file_id = await machine.upload(lines(2))
        other = await machine.upload(b"", purpose="user_data")
        made = await machine.create(file_id, window_s=30 * 86400)
        await machine.reached(made.id, lambda batch: batch.status is Status.IN_PROGRESS)
        with pytest.raises(GatewayError, match="Cancel the batch"):
            await library.delete_file("", file_id)
        machine.now_s += 30 * 86400 - 1
        assert await library.delete_expired() == 0
        machine.now_s += 2
        await machine.ended(made.id)
        assert await library.delete_expired() == 1
        machine.now_s += 31 * 86400
        assert await library.delete_expired() == 1
        await library.delete_expired()
        assert [f.id for f in await library.file_page("", PageQuery("file-", 10))] == [other]
        assert await library.batch_page("", PageQuery("batch_", 10)) == []
        assert await library.used() == (0, 1)


@pytest.mark.asyncio
async def test_results_as_they_come(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor(), QUICK) as machine:
        batch = await machine.ended((await machine.create(await machine.upload(lines(30)))).id)
        found = await machine.library.results_after("", batch.id, 0)
        assert await machine.library.results_after("", batch.id, found[9][0]) == found[10:]
        whole = b"".join(content for _, content in sorted(found, key=lambda each: json.loads(each[1])["id"]))
        assert read_lines(whole) == (await machine.results(batch))[0]


@pytest.mark.asyncio
async def test_open_batches_are_bounded(tmp_path: Path) -> None:
    settings = BatchSettings(open_batches_max=3, open_batches_per_user_max=2)
    async with Machine(tmp_path, FakeDoor(lambda request, _: None), settings) as machine:
        files = {user: await machine.upload(lines(1), user) for user in ("ann", "ben")}
        await machine.create(files["ann"], "ann")
        await machine.create(files["ann"], "ann")
        with pytest.raises(GatewayError, match="Too many batches") as caught:
            await machine.create(files["ann"], "ann")
        assert (caught.value.status, caught.value.code) == (429, Code.TOO_MANY_BATCHES)
        await machine.create(files["ben"], "ben")
        with pytest.raises(GatewayError, match="Too many batches"):
            await machine.create(files["ben"], "ben")


@pytest.mark.asyncio
async def test_an_unfinished_upload_leaves_nothing(tmp_path: Path) -> None:
    async with Machine(tmp_path, FakeDoor()) as machine:
        async with await machine.library.begin_upload("") as upload:
            await upload.write(b"x" * 10**6)
        assert await machine.library.used() == (0, 0)


@pytest.mark.asyncio
async def test_a_file_is_read_across_its_pieces(tmp_path: Path) -> None:
    content = bytes(range(256)) * 3000
    async with Machine(tmp_path, FakeDoor()) as machine:
        file_id = await machine.upload(content)
        assert await machine.content(file_id) == content
        for place, length in ((0, 1), (262_143, 2), (262_144, 5), (1000, 700_000), (767_999, 10)):
            assert await read_span(machine.library, file_id, place, length) == content[place : place + length]


async def read_span(library: BatchLibrary, file_id: str, place: int, length: int) -> bytes:
    return await library.call(library.files.span, file_id, place, length)
