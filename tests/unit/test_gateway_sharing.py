"""Who shares with whom, classes, deadlines and what is reported of attempts: the gateway's side of fairness."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.support.gateway import SELF, A, B, C, FakeAttempt, FakeClient, FakeMesh, member
from tests.support.gateway_pool import CHAT, Pool

from covey_gateway.core import errors
from covey_gateway.core.circuit import PAUSE_FIRST_S, STALLS_MAX, CircuitBreaker
from covey_gateway.core.errors import GatewayError
from covey_gateway.core.front import DEADLINE_MS_MAX, IncomingRequest
from covey_gateway.core.sharing import (
    AHEAD_REMEMBERED_S,
    BATCH,
    INTERACTIVE,
    NORMAL,
    USERS_REMEMBERED_MAX,
    UsersAhead,
    class_of,
    sharing_name,
)
from covey_gateway.core.waiting_line import CALL_EVERY_S, CLOSED_S, WaitingLines, alone_full
from covey_gateway.io.grpc_call import error_code, status_code
from covey_gateway.io.grpc_inference import deadline_s, priority
from covey_gateway.io.grpc_translate import InvalidRequestError
from covey_gateway.io.http_request import HttpRequest
from covey_mesh.core.asking import TURNED_AWAY_DEADLINE, Answer, Ask, Decision, Outcome
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.names import NodeId

HOST = f"local:{SELF[:16]}"


# --- names and classes --------------------------------------------------------------------------------------------


def test_a_keys_owner_is_one_user_at_every_gateway_and_whatever_the_body_says() -> None:
    assert sharing_name("anna", A, b'"x"') == sharing_name("anna", B, b"") == "anna"


def test_without_a_key_a_user_is_the_machine_and_the_bodys_word_hashed() -> None:
    plain, named = sharing_name("", A, b""), sharing_name("", A, b'"ben@example.org"')
    assert plain == sharing_name("", A, b"null") == f"local:{A[:16]}"
    assert named.startswith(plain + "/")
    assert "ben" not in named
    assert named != sharing_name("", A, b'"eva"') != sharing_name("", B, b'"eva"')
    assert len(sharing_name("", A, b"x" * 10**6)) == len(named)


@pytest.mark.parametrize(
    ("asked", "tier", "best", "expected"),
    [
        (None, b"", 0, NORMAL),
        (None, b'"flex"', 0, BATCH),
        (None, b'"priority"', 0, INTERACTIVE),
        (None, b'"auto"', 0, NORMAL),
        (None, b'{"odd": 1}', 0, NORMAL),
        (INTERACTIVE, b'"flex"', 0, INTERACTIVE),
        (INTERACTIVE, b"", BATCH, BATCH),
        (None, b"", BATCH, BATCH),
        (BATCH, b"", NORMAL, BATCH),
    ],
)
def test_classes(asked: int | None, tier: bytes, best: int, expected: int) -> None:
    assert class_of(asked, tier, best) == expected


def test_what_the_leader_is_asked() -> None:
    pool = Pool()
    pool.runner._best_classes = {"ada": NORMAL}
    flex = b'{"model":"m","messages":[],"service_tier":"flex","user":{"any":["type"]}}'
    pool.runner.submit(IncomingRequest(CHAT, flex, "ada"), FakeClient())
    pool.runner.submit(IncomingRequest(CHAT, b'{"model":"m","messages":[],"user":"x"}', "", INTERACTIVE), FakeClient())
    pool.runner.submit(IncomingRequest(CHAT, b'{"model":"m","messages":[]}', "ada", INTERACTIVE), FakeClient())
    pool.timers.settle()
    assert [(ask.user.partition("/")[0], ask.priority) for ask in pool.mesh.asks] == [
        ("ada", BATCH),
        (HOST, INTERACTIVE),
        ("ada", NORMAL),
    ]


# --- headers and metadata -----------------------------------------------------------------------------------------


def with_headers(**headers: str) -> HttpRequest:
    request = HttpRequest(0.0)
    request.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return request


@pytest.mark.parametrize("given", ["", "0", "-1", "+5", "1e3", "12.5", " 5", "86400001", "9" * 400, "٣", "soon"])
def test_an_odd_deadline_is_the_clients_mistake(given: str) -> None:
    request = with_headers(x_covey_deadline_ms=given)
    with pytest.raises(GatewayError) as refused:
        request.deadline_s()
    assert (refused.value.status, refused.value.param) == (400, "x-covey-deadline-ms")


def test_deadlines_and_classes_over_http() -> None:
    request = with_headers(x_covey_deadline_ms=str(DEADLINE_MS_MAX), x_covey_priority="Batch")
    assert (request.deadline_s(), request.priority()) == (86_400.0, BATCH)
    assert (HttpRequest(0.0).deadline_s(), HttpRequest(0.0).priority()) == (None, None)
    with pytest.raises(GatewayError, match="interactive, normal or batch"):
        with_headers(x_covey_priority="urgent").priority()


def test_deadlines_and_classes_over_grpc() -> None:
    assert [deadline_s(None, 0), deadline_s(5.0, 0), deadline_s(None, 1500), deadline_s(1.0, 1500)] == [
        None,
        5.0,
        1.5,
        1.0,
    ]
    assert deadline_s(-3.0, 0) == 0.0
    assert deadline_s(1e12, 0) is None
    with pytest.raises(InvalidRequestError):
        deadline_s(None, DEADLINE_MS_MAX + 1)
    assert [priority((("x-covey-priority", "batch"),), word) for word in ("", "interactive")] == [BATCH, INTERACTIVE]
    assert priority(None, "") is None
    for metadata, word in (((("x-covey-priority", "urgent"),), ""), (None, "urgent"), ((("x-covey-priority", 7),), "")):
        with pytest.raises(InvalidRequestError):
            priority(metadata, word)


# --- deadlines that cannot be kept --------------------------------------------------------------------------------


def turned_away(pool: Pool, retry_after_ms: int) -> None:
    ask = pool.mesh.asks[-1]
    decision = Decision(
        ask.request_id, ask.attempt, "m", 0.0, "leader", A, Outcome.NO_CANDIDATE, "p", turned_away=TURNED_AWAY_DEADLINE
    )
    answer = Answer(ask.request_id, ask.attempt, Outcome.NO_CANDIDATE, None, decision, retry_after_ms)
    pool.runner.answer_received(A, answer)


@pytest.mark.parametrize(("retry_after_ms", "retry_after_s"), [(2500, 3), (0, 0)])
def test_a_hopeless_request_is_refused_at_once(retry_after_ms: int, retry_after_s: int) -> None:
    pool = Pool()
    client, _ = pool.submit(deadline_s=1.0)
    turned_away(pool, retry_after_ms)
    assert (client.status, client.heads[0].retry_after_s) == (503, retry_after_s)
    assert b"deadline_unreachable" in client.body
    assert pool.quiet()


def test_its_grpc_status_is_not_that_of_an_outage() -> None:
    body = errors.deadline_unreachable(None, 0).body()
    assert status_code(503, error_code(body)).name == "RESOURCE_EXHAUSTED"
    assert status_code(503, error_code(errors.pool_busy("m", 1).body())).name == "UNAVAILABLE"
    assert error_code(b"[]") == error_code(b"\xff") == ""


def test_a_deadline_that_passes_in_the_queue_is_504_and_the_ask_is_taken_back() -> None:
    pool = Pool()
    client, _ = pool.submit(deadline_s=1.0)
    pool.mesh.answer(Outcome.QUEUED)
    pool.timers.advance(1.01)
    assert (client.status, b"deadline_exceeded" in client.body) == (504, True)
    assert pool.mesh.reports[-1].withdrawn
    assert pool.quiet()


def test_a_deadline_that_passes_at_the_machine_aborts_the_work() -> None:
    pool = Pool()
    client, _ = pool.submit(deadline_s=1.0)
    attempt = pool.mesh.assign(A)
    pool.timers.advance(1.01)
    assert attempt.cancelled
    assert client.status == 504
    assert pool.quiet()


# --- reports ------------------------------------------------------------------------------------------------------


def test_a_refusal_is_told_apart_from_a_failure() -> None:
    pool = Pool()
    pool.submit()
    for node_id, code in ((A, FailureCode.RESOURCE_EXHAUSTED), (B, FailureCode.ENGINE_FAILED)):
        pool.mesh.assign(node_id).sink.end(Failure(code, "because"))
    assert [(r.failed, r.refused) for r in pool.mesh.reports] == [(True, True), (True, False)]


def test_the_engines_own_counts_reach_the_leader() -> None:
    pool = Pool()
    pool.submit()
    pool.mesh.assign(A).answer(
        b'{"usage":{"prompt_tokens":120,"total_tokens":127,"completion_tokens":7,'
        b'"prompt_tokens_details":{"cached_tokens":96}}}'
    )
    (report,) = pool.mesh.reports
    assert (report.prompt_tokens, report.cached_prompt_tokens, report.output_tokens) == (120, 96, 7)


# --- users ahead --------------------------------------------------------------------------------------------------


def test_a_new_leader_is_told_what_the_last_one_said() -> None:
    pool = Pool()
    client, _ = pool.submit()
    ask = pool.mesh.asks[-1]
    answer = Answer(ask.request_id, ask.attempt, Outcome.ASSIGNED, B, None, user_ahead_tokens=700)
    pool.runner.answer_received(A, answer)
    pool.submit()
    assert pool.mesh.asks[-1].user_ahead_tokens == 0, "who said it knows it"
    pool.mesh.lead(C)
    assert pool.mesh.asks[-1].user_ahead_tokens == 700
    pool.timers.advance(AHEAD_REMEMBERED_S + 1)
    pool.submit()
    assert pool.mesh.asks[-1].user_ahead_tokens == 0, "too long ago to mean anything"
    assert client.ended == 0


def test_what_is_remembered_of_users_is_bounded() -> None:
    users = UsersAhead()
    for i in range(USERS_REMEMBERED_MAX + 10):
        users.told(A, "m", f"u{i}", i + 1, 0.0)
    assert len(users) == USERS_REMEMBERED_MAX
    ask = Ask("r", 1, "m", 1, 1, user=f"u{USERS_REMEMBERED_MAX}")
    assert users.for_leader(B, ask, 1.0) == USERS_REMEMBERED_MAX + 1
    users.told(A, "m", ask.user, 0, 2.0)
    assert users.for_leader(B, ask, 2.0) == 0


# --- the line without a leader ------------------------------------------------------------------------------------


class FullMachines(Pool):
    """No leader; `places` attempts run at once, the machines refuse the rest."""

    def __init__(self, places: int) -> None:
        super().__init__(FakeMesh(member(A, "m"), member(B, "m"), leader=None))
        self.places = places
        self.running: list[FakeAttempt] = []
        self.opened = 0
        self.refusals = 0

    def play(self, seconds: float = 0.0) -> None:
        """Machines answer at once, again and again, until that time has passed."""
        until_s = self.timers.now_s + seconds
        while True:
            self.timers.settle()
            if self._answer_new():
                continue
            if self.timers.now_s >= until_s:
                return
            self.timers.advance(min(0.01, until_s - self.timers.now_s))

    def _answer_new(self) -> bool:
        fresh = self.mesh.attempts[self.opened :]
        self.opened += len(fresh)
        for attempt in fresh:
            if len(self.running) < self.places:
                self.running.append(attempt)
                attempt.sink.head(200, "application/json")
            else:
                self.refusals += 1
                attempt.sink.end(Failure(FailureCode.RESOURCE_EXHAUSTED, "full", 200))
        return bool(fresh)

    def end(self, index: int = 0) -> FakeAttempt:
        attempt = self.running.pop(index)
        attempt.sink.data(b"{}")
        attempt.sink.end(None)
        return attempt

    def ask_as(self, user: str, **fields: Any) -> FakeClient:
        client = FakeClient()
        priority = fields.pop("priority", None)
        self.runner.submit(IncomingRequest(CHAT, b'{"model":"m","messages":[]}', user, priority), client)
        return client


def test_without_a_leader_a_flood_does_not_keep_others_from_their_turn() -> None:
    pool = FullMachines(places=2)
    heavy = [pool.ask_as("heavy") for _ in range(60)]
    pool.play(1.0)
    light = pool.ask_as("light")
    pool.play(0.05)
    assert not light.ended
    pool.end()
    pool.play(0.05)
    pool.end()
    pool.end()
    pool.play(0.05)
    while not light.ended and len([c for c in heavy if c.ended]) < 5:
        pool.end()
        pool.play(0.05)
    assert light.ended, "among the first served, not after sixty"
    while pool.running:
        pool.end()
        pool.play(0.05)
    assert all(client.status == 200 for client in heavy)
    assert pool.quiet()


def test_those_who_wait_in_line_do_not_ask_the_machines_again_and_again() -> None:
    pool = FullMachines(places=1)
    clients = [pool.ask_as(f"u{i % 3}") for i in range(100)]
    pool.play(10.0)
    assert pool.refusals <= 100 * 2 + 10.0 / CLOSED_S * 2, "each once at most, then one of them now and then"
    for client in clients:
        assert not client.ended


def test_in_line_the_class_comes_first() -> None:
    pool = FullMachines(places=1)
    for _ in range(5):
        pool.ask_as("a", priority=BATCH)
    pool.play(1.0)
    person = pool.ask_as("a", priority=INTERACTIVE)
    pool.play(0.3)
    pool.end()
    pool.play(0.05)
    pool.end()
    pool.play(0.05)
    assert person.ended


def test_a_new_leader_takes_over_the_line() -> None:
    pool = FullMachines(places=1)
    for _ in range(5):
        pool.ask_as("a")
    pool.play(0.5)
    assert len(pool.runner._alone._lines) == 4
    pool.mesh.lead(C)
    assert len(pool.runner._alone._lines) == 0
    waiting = [ask for ask in pool.mesh.asks if ask.running_on is None]
    assert len(waiting) == 4
    assert all(ask.waited_s >= 0.5 for ask in waiting)


def test_who_leaves_the_line_frees_the_next() -> None:
    pool = FullMachines(places=1)
    pool.ask_as("a")
    pool.play()
    client = FakeClient()
    gone = pool.runner.submit(IncomingRequest(CHAT, b'{"model":"m","messages":[]}', "a"), client)
    pool.play()
    other = pool.ask_as("a")
    pool.play(0.1)
    gone.cancel()
    pool.end()
    pool.play(0.05)
    pool.end()
    pool.play(0.05)
    assert other.ended
    assert pool.quiet()


def test_a_line_is_bounded_and_calls_are_spaced() -> None:
    lines = WaitingLines(NodeId("f" * 32), length_max=3)
    refused = {A: "resource_exhausted: full"}
    for i in range(5):
        assert lines.nobody_has_room(Ask(f"r{i}", 1, "m", 1, 1, excluded=refused, user="u"), 0.0)
    assert len(lines) == 3
    assert lines.call(0.1) == []
    assert lines.wake_at_s == CLOSED_S
    assert lines.call(CLOSED_S) == [("r0", False)]
    assert lines.call(CLOSED_S) == []
    assert lines.wake_at_s == CLOSED_S + CALL_EVERY_S
    assert not lines.must_wait(Ask("r0", 2, "m", 1, 1, user="u"), CLOSED_S)
    assert lines.must_wait(Ask("new", 1, "m", 1, 1, user="u"), CLOSED_S)
    assert not lines.must_wait(Ask("other", 1, "another model", 1, 1), 0.0)
    assert not lines.nobody_has_room(Ask("x", 1, "m", 1, 1, excluded={A: "engine_failed: dead"}), 0.0)
    lines.place_freed("m", CLOSED_S)
    assert lines.call(CLOSED_S) == [("r1", True)]


FULL = {A: "resource_exhausted: full"}


def in_line(request_id: str, waited_s: float = 0.0) -> Ask:
    return Ask(request_id, 1, "m", 1, 1, excluded=FULL, user="u", waited_s=waited_s)


def test_a_line_stays_closed_for_a_moment_though_nobody_stands_in_it() -> None:
    lines = WaitingLines(SELF, 10)
    assert lines.nobody_has_room(in_line("r0"), 0.0)
    lines.left("r0")
    assert lines.must_wait(in_line("r1"), CLOSED_S - 0.01)
    lines.left("r1")
    assert not lines.must_wait(in_line("r2"), CLOSED_S)


def test_who_was_called_and_left_waits_like_everybody() -> None:
    lines = WaitingLines(SELF, 10)
    for name in ("r0", "r1"):
        lines.nobody_has_room(in_line(name), 0.0)
    assert lines.call(CLOSED_S) == [("r0", False)]
    assert not lines.must_wait(in_line("r0"), CLOSED_S)
    lines.left("r0")
    assert lines.must_wait(in_line("r0"), CLOSED_S)


def test_nobody_stands_in_line_twice() -> None:
    lines = WaitingLines(SELF, 10)
    for _ in range(3):
        lines.nobody_has_room(in_line("r0"), 0.0)
    assert lines.call(CLOSED_S) == [("r0", False)]
    assert lines.call(CLOSED_S + CALL_EVERY_S) == []


def test_in_line_the_time_waited_before_counts() -> None:
    lines = WaitingLines(SELF, 10)
    lines.nobody_has_room(in_line("new"), 1.0)
    lines.nobody_has_room(in_line("old", waited_s=30.0), 1.0)
    assert lines.call(1.0 + CLOSED_S) == [("old", False)]


# --- patience -----------------------------------------------------------------------------------------------------


def test_machines_that_all_fell_silent_are_not_waited_for_in_vain() -> None:
    mesh = FakeMesh(member(A, "m"), member(B, "m"))
    pool = Pool(mesh)
    for node_id in (A, B):
        for _ in range(STALLS_MAX):
            pool.runner._circuits.stalled(pool.timers.now_s, node_id, "m")
    pool.timers.advance(0.5)
    mesh.lead(None)
    client, _ = pool.submit()
    pool.timers.advance(PAUSE_FIRST_S + 0.4)
    assert mesh.attempts, "the pause is over within the client's patience: it is tried"
    for node_id, left_s in ((A, 40.0), (B, 29.5)):
        circuit = pool.runner._circuits._circuits[node_id, "m"]
        circuit.probing, circuit.open_until_s = False, pool.timers.now_s + left_s
    again, _ = pool.submit()
    assert (again.status, again.heads[0].retry_after_s) == (503, 30), "at once, and when to come back"
    assert client.ended == 0


def test_when_the_first_circuit_reopens() -> None:
    circuits = CircuitBreaker()
    assert circuits.reopens_s(0.0, "m") == 0.0
    for _ in range(STALLS_MAX):
        circuits.stalled(0.0, A, "m")
    assert circuits.reopens_s(2.0, "m") == PAUSE_FIRST_S - 2.0
    assert circuits.reopens_s(2.0, "other") == 0.0
    assert circuits.reopens_s(PAUSE_FIRST_S, "m") == 0.0
    circuits.opened(PAUSE_FIRST_S, A, "m")
    assert circuits.reopens_s(PAUSE_FIRST_S, "m") == 1.0


def test_the_leaders_patience_is_part_of_the_clients() -> None:
    """An engine that is not back: the leader waits 3 s, the gateway no more than 5 s in all."""
    pool = Pool()
    client, _ = pool.submit()
    pool.mesh.answer(Outcome.QUEUED)
    pool.timers.advance(3.0)
    while not client.ended and pool.timers.now_s < 1010.0:
        pool.mesh.answer(Outcome.NO_CANDIDATE, retry_after_ms=2000)
        pool.timers.advance(0.1)
    assert client.status == 503
    assert 4.9 <= pool.timers.now_s - 1000.0 <= 5.3


# --- a thousand requests at once ------------------------------------------------------------------------------------


def test_a_tick_that_comes_late_blames_nobody() -> None:
    pool = Pool()
    pool.submit()
    pool.timers.now_s += 1.5
    pool.timers.settle()
    assert "ask_timed_out" not in pool.observer.events, "this machine's own loop stood still"
    pool.timers.advance(0.41)
    assert "ask_timed_out" in pool.observer.events, "but not for ever"


def test_alone_a_gateway_gives_no_machine_more_than_its_places_but_some() -> None:
    limited = member(A, "m")
    load = replace(limited.load.models[0], running_limit=16)
    view = FakeMesh(replace(limited, load=replace(limited.load, models=(load,))), member(B, "m")).view()
    assert alone_full(view, "m", {A: 13, B: 999, C: 5}) == {}
    assert set(alone_full(view, "m", {A: 14})) == {A}
    assert alone_full(view, "other", {A: 99}) == {}
    lines = WaitingLines(SELF, 10)
    assert lines.nobody_has_room(Ask("r", 1, "m", 1, 1, excluded=alone_full(view, "m", {A: 14})), 0.0)


def test_a_leader_that_answers_others_is_busy_and_not_silent() -> None:
    pool = Pool()
    for _ in range(12):
        pool.submit()
    asks = list(pool.mesh.asks)
    for ask in asks[:10]:
        pool.timers.advance(0.35)
        pool.mesh.answer(Outcome.QUEUED, ask=ask)
        if pool.timers.now_s < 1002.9:
            assert "ask_timed_out" not in pool.observer.events
    assert "ask_timed_out" in pool.observer.events, "but the last ones do not wait for ever"


def test_a_leader_that_does_not_acknowledge_is_said_once_for_all(caplog: pytest.LogCaptureFixture) -> None:
    pool = Pool()
    for _ in range(5):
        pool.submit()
    pool.timers.advance(0.41)
    assert pool.observer.events.count("ask_timed_out") == 5
    assert caplog.text.count("does not acknowledge") == 1
