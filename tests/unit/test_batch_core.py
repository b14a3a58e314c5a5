"""Ids, the life of a batch, the window of lines in flight, what becomes of answers, and lists of several machines."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import pytest
from tests.support.batches import CHAT, NODE, view

from covey_gateway.core.batches.ids import BATCH, FILE, ObjectId, make_id, owner_among, read_id
from covey_gateway.core.batches.lines import LineError
from covey_gateway.core.batches.objects import PageQuery, batch_object, page
from covey_gateway.core.batches.results import Again, Answered, Result, judge, tokens_of, unfinished
from covey_gateway.core.batches.settings import BatchSettings
from covey_gateway.core.batches.state import (
    ENDED,
    FOLLOWS,
    Batch,
    IllegalChangeError,
    Status,
    Step,
    TokensUsed,
    accepted,
    cancelled_by_user,
    closed,
    moved,
    next_step,
    rejected,
    wound_up,
)
from covey_gateway.core.batches.window import Window, share, slots
from covey_gateway.core.batches.wishes import (
    clean_filename,
    kept_for,
    read_batch_wish,
    read_page_query,
    window_s,
)
from covey_gateway.core.errors import GatewayError
from covey_mesh.core.names import NodeId

SETTINGS = BatchSettings()
NEW = Batch("batch_1", "", CHAT, "file-1", "24h", created_at_s=100, expires_at_s=1000)


# --- ids --------------------------------------------------------------------------------------------------------------


def test_an_id_tells_its_owner_and_its_time() -> None:
    text = make_id(BATCH, NODE, 1_800_000_000, 7)
    found = read_id(text, BATCH)
    assert found is not None
    assert found.created_at_s == 1_800_000_000
    assert owner_among(found, [NodeId("f" * 32), NODE]) == NODE
    assert owner_among(found, [NodeId("f" * 32)]) is None


@pytest.mark.parametrize(
    "text", ["", "batch_", "batch_1", "file-" + "0" * 32, "batch_" + "g" * 32, "batch_" + "0" * 99]
)
def test_what_is_no_id(text: str) -> None:
    assert read_id(text, BATCH) is None


# --- the life of a batch ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "after"), list(itertools.product(Status, Status)))
def test_only_the_pairs_of_the_table_are_possible(before: Status, after: Status) -> None:
    batch = replace(NEW, status=before)
    if after in FOLLOWS[before]:
        assert moved(batch, after, 5).at_s == {after.value: 5}
    else:
        with pytest.raises(IllegalChangeError):
            moved(batch, after, 5)


def test_a_batch_from_beginning_to_end() -> None:
    batch = accepted(NEW, 101, total=2, model="m")
    assert next_step(batch, 102, running=0) is Step.RUN
    batch = replace(batch, completed=1, failed=1)
    assert next_step(batch, 102, running=1) is Step.RUN
    assert next_step(batch, 102, running=0) is Step.WIND_UP
    batch = wound_up(batch, 103)
    assert next_step(batch, 103, running=0) is Step.CLOSE
    batch = closed(batch, 104, "file-o", "file-e")
    assert (batch.status, batch.output_file_id, batch.error_file_id) == (Status.COMPLETED, "file-o", "file-e")
    assert next_step(batch, 9999, running=0) is Step.NOTHING


def test_a_batch_whose_time_is_over() -> None:
    batch = accepted(NEW, 101, total=2, model="m")
    assert next_step(batch, 1000, running=1) is Step.STOP_RUNNING
    assert next_step(batch, 1000, running=0) is Step.WIND_UP
    batch = wound_up(batch, 1000)
    assert next_step(batch, 1000, running=0) is Step.SETTLE
    assert closed(replace(batch, failed=2), 1001, "", "e").status is Status.EXPIRED


@pytest.mark.parametrize("status", [Status.VALIDATING, Status.IN_PROGRESS])
def test_a_batch_that_is_cancelled(status: Status) -> None:
    batch = cancelled_by_user(replace(NEW, status=status, total=3, completed=1), 200)
    assert cancelled_by_user(batch, 300) is batch
    assert next_step(batch, 201, running=1) is Step.STOP_RUNNING
    assert next_step(batch, 201, running=0) is Step.SETTLE
    assert closed(replace(batch, failed=2), 202, "o", "e").status is Status.CANCELLED


@pytest.mark.parametrize("status", [*(ENDED - {Status.CANCELLED}), Status.FINALIZING])
def test_too_late_to_cancel(status: Status) -> None:
    with pytest.raises(IllegalChangeError):
        cancelled_by_user(replace(NEW, status=status), 200)


def test_a_rejected_batch_tells_why() -> None:
    batch = rejected(NEW, 101, [LineError("invalid_json_line", "no", 7)])
    shown = batch_object(batch, "anna")
    assert shown["status"] == "failed"
    assert shown["failed_at"] == 101
    assert shown["errors"]["data"] == [{"code": "invalid_json_line", "line": 7, "message": "no", "param": None}]


# --- the window -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 1), (10, 9), (0, 3), (256, 230)])
def test_slots_leave_some_for_people(limit: int, expected: int) -> None:
    assert slots(view(limit), "m", SETTINGS) == expected


def test_no_slots_where_nobody_offers_the_model() -> None:
    assert slots(view(4, ready=False), "m", SETTINGS) == 0
    assert slots(view(4), "other", SETTINGS) == 0


def test_the_window_follows_the_pool() -> None:
    window = Window(SETTINGS)
    assert window.size == 0
    window.follow(8)
    assert window.size == 10
    window.follow(100)
    assert window.size == 125
    window.follow(10_000)
    assert window.size == SETTINGS.in_flight_max
    window.follow(1)
    assert window.size == 3
    window.follow(0)
    assert window.size == 0


def test_the_window_halves_once_for_a_burst_and_grows_by_one_a_windowful() -> None:
    window = Window(SETTINGS)
    window.follow(80)
    for _ in range(50):
        window.busy(10.0)
    assert window.size == 50
    for _ in range(52):
        window.answered()
    assert window.size == 51
    for second in range(11, 30):
        window.busy(float(second))
    assert window.size == 1
    for _ in range(100_000):
        window.answered()
    assert window.size == 100
    window.busy(30.0)
    assert window.size == 50, "what could not be used has not been saved up"
    window.follow(8)
    window.busy(31.0)
    assert window.size == 5


@pytest.mark.parametrize(("size", "jobs", "each"), [(0, 3, 0), (10, 1, 10), (10, 3, 4), (2, 5, 1), (5, 0, 5)])
def test_batches_share_a_window(size: int, jobs: int, each: int) -> None:
    assert share(size, jobs) == each


# --- answers ----------------------------------------------------------------------------------------------------------


def error(code: str) -> bytes:
    return json.dumps({"error": {"code": code, "message": "x"}}).encode()


def verdict(status: int, body: bytes = b"{}", failures: int = 0, retry_after_s: float = 0.0) -> Result | Again:
    return judge("batch_1", 3, 'id "3"', Answered(status, "req-9", body, retry_after_s), failures, SETTINGS)


def test_an_answer_becomes_a_line_of_the_output() -> None:
    found = verdict(200, b'{"a":\n 1.50,\n "usage": {"prompt_tokens": 4, "completion_tokens": 2}}')
    assert isinstance(found, Result)
    assert not found.failed
    assert found.line.count(b"\n") == 1
    assert b'"a":1.50' in found.line
    assert found.tokens == TokensUsed(4, 0, 2, 0)
    content = json.loads(found.line)
    assert (content["custom_id"], content["error"]) == ('id "3"', None)
    assert content["response"]["status_code"] == 200
    assert content["response"]["request_id"] == "req-9"


def test_an_engines_refusal_stands_in_the_error_file_as_it_was() -> None:
    found = verdict(400, error("context_length_exceeded"))
    assert isinstance(found, Result)
    assert found.failed
    content = json.loads(found.line)
    assert content["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert content["error"] is None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "pool_busy"),
        (503, "nothing_able_to_serve"),
        (503, "draining"),
        (503, "gateway_full"),
        (404, "model_not_found"),
    ],
)
def test_a_pool_without_room_is_waited_for(status: int, code: str) -> None:
    assert verdict(status, error(code), failures=10_000) == Again(SETTINGS.retry_first_s, busy=True)
    assert verdict(status, error(code), retry_after_s=7) == Again(7, busy=True)
    assert verdict(status, error(code), retry_after_s=7e9) == Again(SETTINGS.retry_max_s, busy=True)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (503, error("attempts_exhausted")),
        (500, b"{}"),
        (502, b"x"),
        (408, b"{}"),
        (429, b"{}"),
        (0, b""),
        (200, b"no json"),
    ],
)
def test_a_failing_line_is_asked_again_a_few_times(status: int, body: bytes) -> None:
    waits = [verdict(status, body, failures=n) for n in range(SETTINGS.line_attempts_max)]
    assert [w.after_s for w in waits[:-1] if isinstance(w, Again)] == [0.5, 1, 2, 4]
    assert isinstance(waits[-1], Result)
    assert waits[-1].failed
    assert json.loads(waits[-1].line)["custom_id"] == 'id "3"'


def test_a_line_never_asked() -> None:
    content = json.loads(unfinished("batch_1", 1, "a", "batch_expired").line)
    assert content["response"] is None
    assert content["error"]["code"] == "batch_expired"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", TokensUsed()),
        (b'{"usage": "much"}', TokensUsed()),
        (b'{"usage": null}', TokensUsed()),
        (b'{"usage": {"prompt_tokens": 5, "total_tokens": 5}}', TokensUsed(5)),
        (
            b'{"usage": {"input_tokens": 5, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 3,'
            b' "output_tokens_details": {"reasoning_tokens": 2}}}',
            TokensUsed(5, 4, 3, 2),
        ),
    ],
)
def test_usage(body: bytes, expected: TokensUsed) -> None:
    assert tokens_of(body) == expected


# --- wishes and lists -------------------------------------------------------------------------------------------------


def wish(**fields: object) -> bytes:
    usual = {
        "input_file_id": make_id(FILE, NODE, 1, 1),
        "endpoint": CHAT,
        "completion_window": "24h",
        "metadata": {"a": "b"},
    }
    return json.dumps({**usual, **fields}).encode()


def test_a_wish() -> None:
    found = read_batch_wish(wish(output_expires_after={"anchor": "created_at", "seconds": 3600}))
    assert (found.window_s, found.metadata, found.output_kept_s) == (86400, {"a": "b"}, 3600)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        (b"", 400, None),
        (b"[]", 400, None),
        (wish(input_file_id=None), 400, "input_file_id"),
        (wish(input_file_id="file-nope"), 404, "input_file_id"),
        (wish(endpoint="/v1/moderations"), 400, "endpoint"),
        (wish(completion_window="soon"), 400, "completion_window"),
        (wish(completion_window="31d"), 400, "completion_window"),
        (wish(metadata={"a": 1}), 400, None),
        (wish(metadata={str(i): "" for i in range(17)}), 400, "metadata"),
        (wish(metadata={"a": "x" * 513}), 400, "metadata"),
        (wish(output_expires_after={"anchor": "created_at", "seconds": 5}), 400, "output_expires_after"),
        (b" " * 100_000, 400, None),
    ],
)
def test_what_is_no_wish(body: bytes, status: int, param: str | None) -> None:
    with pytest.raises(GatewayError) as caught:
        read_batch_wish(body)
    assert (caught.value.status, caught.value.param) == (status, param)


@pytest.mark.parametrize(("window", "seconds"), [("1m", 60), ("24h", 86400), ("30d", 2592000)])
def test_windows(window: str, seconds: int) -> None:
    assert window_s(window) == seconds


@pytest.mark.parametrize(("anchor", "seconds"), [("", "3600"), ("created_at", "x"), ("created_at", "9" * 30)])
def test_what_is_no_expiry(anchor: str, seconds: str) -> None:
    with pytest.raises(GatewayError):
        kept_for(anchor, seconds, "expires_after")


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=nope", "purpose=none"])
def test_what_is_no_page(query: str) -> None:
    with pytest.raises(GatewayError):
        read_page_query(BATCH, query)


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a.jsonl", "a.jsonl"), ("../../etc/passwd", "passwd"), ("C:\\x\\y", "y"), ("", "file"), ("a\nb", "ab")],
)
def test_file_names_are_harmless(given: str, kept: str) -> None:
    assert clean_filename(given) == kept


@pytest.mark.parametrize("newest_first", [True, False])
def test_pages_over_several_machines_show_all_once(newest_first: bool) -> None:
    machines = [NodeId(digit * 32) for digit in "abc"]
    all_ids = [make_id(FILE, machines[i % 3], 1000 + i // 2, i) for i in range(25)]
    seen: list[str] = []
    for _ in range(20):
        query = PageQuery(FILE, 4, seen[-1] if seen else "", newest_first)
        cursor = query.cursor()
        parts: list[dict[str, str]] = []
        for machine in machines:
            kept = sorted(
                (found.order for t in all_ids if machine.startswith((found := known(t)).owner)), reverse=newest_first
            )
            after = [o for o in kept if cursor is None or (o < cursor if newest_first else o > cursor)]
            parts += [{"id": text} for _, text in after[: query.limit + 1]]
        found_page = page(parts, query)
        seen += [each["id"] for each in found_page["data"]]
        if not found_page["has_more"]:
            break
    assert seen == sorted(all_ids, key=lambda t: known(t).order, reverse=newest_first)


def known(text: str) -> ObjectId:
    found = read_id(text, FILE)
    assert found is not None
    return found
