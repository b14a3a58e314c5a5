"""The request's state machine: what is asked, opened, delivered, refused, reported, and when."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from covey_gateway.core import request_events as ev
from covey_gateway.core.errors import Code
from covey_gateway.core.request import QUEUED_REMINDER_S, TRANSITIONS, Phase, RequestMachine
from covey_gateway.core.request_state import Surroundings
from covey_gateway.core.retrying import BufferBudget
from covey_gateway.core.settings import RequestSettings
from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.names import NodeId

A, B, C = (NodeId(letter * 32) for letter in "abc")
LEADER, OTHER_LEADER = NodeId("1" * 32), NodeId("2" * 32)
SETTINGS = RequestSettings()
FACTS = ev.RequestFacts("req-1", "/v1/chat/completions", "m", True, 10, 20, arrived_s=100.0)
KNOWN = ev.ModelStanding(known=True, hopeful=True, offered=("m",))
UNKNOWN = ev.ModelStanding(known=False, hopeful=False, offered=("other",))
STREAM, JSON = "text/event-stream; charset=utf-8", "application/json"


class Drive:
    """A machine with a clock of its own; remembers every effect."""

    def __init__(
        self, facts: ev.RequestFacts = FACTS, settings: RequestSettings = SETTINGS, around: Surroundings | None = None
    ) -> None:
        self.budget = BufferBudget(settings.buffered_total_bytes_max)
        self.machine = RequestMachine(facts, settings, self.budget, lambda: 0.0, around=around)
        self.now_s = facts.arrived_s
        self.effects: list[ev.Effect] = []

    def __call__(self, event: ev.Event) -> list[ev.Effect]:
        effects = self.machine.step(self.now_s, event)
        self.effects += effects
        return effects

    def wake(self) -> list[ev.Effect]:
        assert self.machine.wake_at_s is not None
        self.now_s = self.machine.wake_at_s
        return self(ev.Tick())

    # Shorthands for the current attempt.
    def assigned(self, node_id: NodeId) -> list[ev.Effect]:
        return self(ev.Assigned(self.machine.attempt, node_id))

    def no_candidate(self, standing: ev.ModelStanding = KNOWN, retry_after_ms: int = 250) -> list[ev.Effect]:
        return self(ev.NoCandidate(self.machine.attempt, standing, retry_after_ms=retry_after_ms))

    def head(self, status: int = 200, content_type: str = STREAM) -> list[ev.Effect]:
        return self(ev.UpstreamHead(self.machine.attempt, status, content_type))

    def data(self, chunk: bytes) -> list[ev.Effect]:
        return self(ev.UpstreamData(self.machine.attempt, chunk))

    def end(self, code: FailureCode | None = None, retry_after_ms: int = 0) -> list[ev.Effect]:
        failure = None if code is None else Failure(code, "because", retry_after_ms)
        return self(ev.UpstreamEnd(self.machine.attempt, failure))

    def delivered(self) -> bytes:
        return b"".join(e.chunk for e in self.effects if isinstance(e, ev.DeliverData))

    def opened(self) -> list[NodeId]:
        return [e.node_id for e in self.effects if isinstance(e, ev.OpenOn)]


def kinds(effects: list[ev.Effect]) -> list[str]:
    return [type(effect).__name__ for effect in effects]


def asked(effects: list[ev.Effect]) -> ev.SendAsk:
    found = [e for e in effects if isinstance(e, ev.SendAsk)]
    assert len(found) == 1
    return found[0]


def refused(effects: list[ev.Effect]) -> tuple[int, Code]:
    found = [e for e in effects if isinstance(e, ev.Refuse)]
    assert len(found) == 1
    return found[0].error.status, found[0].error.code


def opening(node_id: NodeId = A, **facts: object) -> Drive:
    drive = Drive(replace(FACTS, **facts))  # type: ignore[arg-type]
    drive(ev.Started(LEADER))
    drive.assigned(node_id)
    return drive


def relaying() -> Drive:
    drive = opening()
    drive.head()
    drive.data(b"data: 1\n\n")
    assert drive.machine.phase is Phase.RELAYING
    return drive


def in_phase(phase: Phase) -> Drive:
    drive = Drive()
    if phase is not Phase.NEW:
        drive(ev.Started(None if phase is Phase.DECIDING else LEADER))
    if phase is Phase.QUEUED:
        drive(ev.Queued(1))
    if phase is Phase.BACKING_OFF:
        drive.no_candidate()
    if phase in (Phase.OPENING, Phase.RELAYING, Phase.DONE):
        drive.assigned(A)
    if phase in (Phase.RELAYING, Phase.DONE):
        drive.head()
        drive.data(b"data: 1\n\n")
    if phase is Phase.DONE:
        drive.end()
    assert drive.machine.phase is phase
    return drive


# --- links that come back ------------------------------------------------------------------------------------------


def without_links() -> Drive:
    """Every machine's link was lost under this request, which now waits."""
    drive = opening(A)
    drive.end(FailureCode.LINK_LOST)
    drive.assigned(B)
    drive.end(FailureCode.LINK_LOST)
    drive.no_candidate(retry_after_ms=0)
    assert drive.machine.phase is Phase.BACKING_OFF
    return drive


def test_a_machine_that_is_linked_again_is_asked_for_at_once() -> None:
    drive = without_links()
    ask = asked(drive(ev.LinkedAgain(B))).ask
    assert set(ask.excluded) == {A}
    assert asked([*drive.no_candidate(retry_after_ms=0), *drive(ev.LinkedAgain(A))]).ask.excluded == {}


def test_a_link_that_is_back_while_another_machine_is_asked_for_counts_too() -> None:
    drive = opening(A)
    drive.end(FailureCode.LINK_LOST)
    assert drive(ev.LinkedAgain(A)) == []
    drive.assigned(B)
    effects = drive.end(FailureCode.ENGINE_FAILED)
    assert set(asked(effects).ask.excluded) == {B}


def test_a_link_that_flaps_is_forgiven_once_a_request() -> None:
    drive = without_links()
    drive(ev.LinkedAgain(B))
    drive.assigned(B)
    drive.end(FailureCode.LINK_LOST)
    drive.no_candidate(retry_after_ms=0)
    assert drive(ev.LinkedAgain(B)) == []
    assert drive.machine.phase is Phase.BACKING_OFF


def test_a_new_link_says_nothing_of_an_engine_that_failed() -> None:
    drive = opening(A)
    drive.end(FailureCode.ENGINE_FAILED)
    drive.no_candidate(retry_after_ms=0)
    assert drive(ev.LinkedAgain(A)) == []


# --- the table -----------------------------------------------------------------------------------------------------

EVENTS: list[Callable[[int], ev.Event]] = [
    lambda n: ev.Started(LEADER),
    lambda n: ev.Assigned(n, A),
    ev.Queued,
    lambda n: ev.NoCandidate(n, KNOWN),
    lambda n: ev.LeaderChanged(OTHER_LEADER),
    lambda n: ev.LeaderUnreachable(),
    lambda n: ev.LinkedAgain(A),
    lambda n: ev.UpstreamHead(n, 200, STREAM),
    lambda n: ev.UpstreamData(n, b"data: 2\n\n"),
    lambda n: ev.UpstreamEnd(n, None),
    lambda n: ev.ClientGone(),
    lambda n: ev.Tick(),
]


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("make", EVENTS)
def test_every_pair_is_in_the_table_or_raises(phase: Phase, make: Callable[[int], ev.Event]) -> None:
    drive = in_phase(phase)
    event = make(drive.machine.attempt)
    if (phase, type(event)) in TRANSITIONS:
        drive(event)
    else:
        with pytest.raises(AssertionError, match=type(event).__name__):
            drive(event)


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.OPENING, Phase.RELAYING, Phase.BACKING_OFF])
@pytest.mark.parametrize("make", [EVENTS[i] for i in (1, 2, 3, 6, 7, 8)])
def test_whatever_belongs_to_an_old_attempt_changes_nothing(phase: Phase, make: Callable[[int], ev.Event]) -> None:
    drive = in_phase(phase)
    assert drive(make(drive.machine.attempt - 1)) == []
    assert drive.machine.phase is phase


# --- asking --------------------------------------------------------------------------------------------------------


def test_a_stream_from_ask_to_end() -> None:
    drive = Drive()
    ask = asked(drive(ev.Started(LEADER))).ask
    assert (ask.request_id, ask.attempt, ask.model, ask.prompt_tokens, ask.excluded) == ("req-1", 1, "m", 10, {})
    assert drive.assigned(A) == [ev.OpenOn(A, 1)]
    assert drive.head() == []
    assert kinds(drive.data(b"data: a\n\n")) == ["DeliverHead", "DeliverData"]
    assert drive.machine.relay(b"data: b\n\ndata: [DO") == b"data: b\n\n"
    assert kinds(drive.data(b"NE]\n\n")) == ["DeliverData"]
    effects = drive.end()
    assert kinds(effects) == ["DeliverEnd", "AttemptEnded", "Report"]
    assert drive.machine.status == 200
    assert drive.machine.wake_at_s is None


def test_a_missing_acknowledgement_lets_the_gateway_decide_and_takes_the_ask_back() -> None:
    drive = Drive()
    drive(ev.Started(LEADER))
    assert drive.machine.wake_at_s == FACTS.arrived_s + SETTINGS.ask_acknowledged_within_s
    timed_out, withdrawn, alone = drive.wake()
    assert timed_out == ev.AskTimedOut(LEADER)
    assert isinstance(withdrawn, ev.Report)
    assert (withdrawn.to, withdrawn.report.attempt, withdrawn.report.withdrawn) == (LEADER, 1, True)
    assert isinstance(alone, ev.DecideAlone)
    assert alone.ask.attempt == 2
    assert drive(ev.Assigned(1, B)) == []
    drive.assigned(A)
    assert drive.opened() == [A]


@pytest.mark.parametrize("attempt", [1, 2])
def test_a_leader_is_waited_for_while_it_answers_others_and_no_longer(attempt: int) -> None:
    within_s = SETTINGS.ask_acknowledged_within_s
    heard_s = [float("-inf")]
    drive = Drive(around=Surroundings(leader_heard_s=lambda: heard_s[0]))
    drive(ev.Started(LEADER))
    if attempt == 2:
        drive.assigned(A)
        drive.now_s += 60.0
        drive.end(FailureCode.ENGINE_FAILED)
    asked_s = drive.now_s
    heard_s[0] = asked_s + within_s / 4
    assert drive.wake() == [], "it was busy a moment ago"
    assert "AskTimedOut" in kinds(drive.wake())
    assert drive.now_s == pytest.approx(asked_s + 2 * within_s)


def test_the_next_attempt_asks_whoever_leads_by_then() -> None:
    drive = opening()
    drive(ev.LeaderChanged(OTHER_LEADER))
    assert asked(drive.end(FailureCode.ENGINE_FAILED)).leader == OTHER_LEADER


def test_without_a_leader_it_decides_at_once() -> None:
    assert kinds(Drive()(ev.Started(None))) == ["DecideAlone"]


@pytest.mark.parametrize("phase", [Phase.ASKING, Phase.QUEUED])
def test_a_lost_leader_is_not_waited_for(phase: Phase) -> None:
    assert kinds(in_phase(phase)(ev.LeaderUnreachable())) == ["DecideAlone"]
    assert kinds(in_phase(phase)(ev.LeaderChanged(None))) == ["Report", "DecideAlone"]


@pytest.mark.parametrize("phase", [Phase.ASKING, Phase.QUEUED])
def test_a_new_leader_is_asked_with_the_time_waited_so_far(phase: Phase) -> None:
    drive = in_phase(phase)
    drive.now_s += 0.3
    ask = asked(drive(ev.LeaderChanged(OTHER_LEADER)))
    assert ask.leader == OTHER_LEADER
    assert ask.ask.attempt == 2
    assert ask.ask.waited_s == pytest.approx(0.3)


@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.RELAYING])
def test_a_leader_change_touches_no_running_attempt(phase: Phase) -> None:
    drive = in_phase(phase)
    assert drive(ev.LeaderChanged(None)) == []
    assert drive(ev.LeaderUnreachable()) == []


@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.RELAYING])
def test_a_new_leader_is_told_where_an_attempt_runs(phase: Phase) -> None:
    drive = in_phase(phase)
    running_on, attempt = drive.machine.node_id, drive.machine.attempt
    told = asked(drive(ev.LeaderChanged(OTHER_LEADER)))
    assert told.leader == OTHER_LEADER
    assert (told.ask.running_on, told.ask.attempt) == (running_on, attempt)
    assert drive.machine.phase is phase


def test_a_queued_ask_is_repeated_and_ends_after_its_bound() -> None:
    drive = in_phase(Phase.QUEUED)
    reminder = asked(drive.wake())
    assert reminder.ask.attempt == 1
    assert reminder.ask.waited_s == pytest.approx(QUEUED_REMINDER_S)
    effects: list[ev.Effect] = []
    for _ in range(100):
        effects = drive.wake()
        if drive.machine.phase is Phase.DONE:
            break
    assert refused(effects) == (503, Code.POOL_BUSY)
    assert drive.now_s == FACTS.arrived_s + SETTINGS.queue_wait_s
    assert kinds(effects) == ["Report", "Refuse"]


def test_the_wait_in_the_queue_ends_between_two_reminders_too() -> None:
    drive = Drive(settings=replace(SETTINGS, queue_wait_s=QUEUED_REMINDER_S + 2.0))
    drive(ev.Started(LEADER))
    drive(ev.Queued(1))
    drive.wake()
    assert refused(drive.wake()) == (503, Code.POOL_BUSY)
    assert drive.now_s == FACTS.arrived_s + QUEUED_REMINDER_S + 2.0


def test_after_an_assignment_the_time_without_one_counts_anew() -> None:
    drive = Drive()
    drive(ev.Started(None))
    drive.no_candidate()
    while drive.now_s < FACTS.arrived_s + SETTINGS.unserved_wait_s / 2:
        drive.wake()
        drive.no_candidate()
    drive.wake()
    drive.assigned(A)
    drive.end(FailureCode.LINK_LOST)
    again_s = drive.now_s
    while drive.machine.phase is not Phase.DONE:
        drive.no_candidate()
        if drive.machine.phase is not Phase.DONE:
            drive.wake()
    assert drive.now_s >= again_s + SETTINGS.unserved_wait_s


def test_a_deadline_ends_the_wait_in_the_queue() -> None:
    drive = Drive(replace(FACTS, deadline_at_s=FACTS.arrived_s + 1))
    ask = asked(drive(ev.Started(LEADER))).ask
    assert ask.deadline_s == 1
    drive(ev.Queued(1))
    assert refused(drive.wake()) == (504, Code.DEADLINE_EXCEEDED)
    assert drive.now_s == FACTS.arrived_s + 1


# --- nobody can serve ----------------------------------------------------------------------------------------------


def test_an_unknown_model_is_refused_at_once_with_what_there_is() -> None:
    drive = Drive()
    drive(ev.Started(LEADER))
    effects = drive.no_candidate(UNKNOWN, retry_after_ms=0)
    assert refused(effects) == (404, Code.MODEL_NOT_FOUND)
    assert isinstance(effects[-1], ev.Refuse)
    assert "other" in effects[-1].error.message


def test_without_a_leader_an_unknown_model_may_still_turn_up() -> None:
    drive = Drive()
    drive(ev.Started(None))
    drive.no_candidate(UNKNOWN, retry_after_ms=0)
    assert drive.machine.phase is Phase.BACKING_OFF
    assert kinds(drive(ev.LeaderChanged(LEADER))) == ["SendAsk"]


def test_leaderless_and_unserved_ends_after_its_bound_with_growing_pauses() -> None:
    drive = Drive()
    drive(ev.Started(None))
    pauses: list[float] = []
    for _ in range(100):
        before = drive.now_s
        drive.no_candidate()
        if drive.machine.phase is Phase.DONE:
            break
        drive.wake()
        pauses.append(drive.now_s - before)
    assert refused(drive.effects) == (503, Code.NOTHING_ABLE_TO_SERVE)
    assert drive.now_s == pytest.approx(FACTS.arrived_s + SETTINGS.unserved_wait_s)
    assert pauses[:2] == [pytest.approx(0.25), pytest.approx(0.25)]
    assert max(pauses) <= SETTINGS.backoff_max_s
    error = next(e.error for e in drive.effects if isinstance(e, ev.Refuse))
    assert error.retry_after_s == SETTINGS.retry_after_s


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (ev.ModelStanding(True, False), (503, Code.NOTHING_ABLE_TO_SERVE)),
        (ev.ModelStanding(True, True, context_tokens=5), (400, Code.CONTEXT_LENGTH_EXCEEDED)),
        (ev.ModelStanding(True, True, context_tokens=50), (503, Code.NOTHING_ABLE_TO_SERVE)),
    ],
)
def test_a_leaders_final_no_is_not_waited_out(standing: ev.ModelStanding, expected: tuple[int, Code]) -> None:
    drive = Drive()
    drive(ev.Started(LEADER))
    assert refused(drive.no_candidate(standing, retry_after_ms=0)) == expected


def test_a_failed_engine_everywhere_is_not_waited_for() -> None:
    drive = Drive()
    drive(ev.Started(LEADER))
    assert refused(drive.no_candidate(ev.ModelStanding(True, False)))[0] == 503


# --- retries before the first byte -----------------------------------------------------------------------------------

RETRIED = [code for code in FailureCode if code is not FailureCode.DEADLINE_EXCEEDED]


@pytest.mark.parametrize("code", RETRIED)
def test_a_machines_failure_is_retried_elsewhere(code: FailureCode) -> None:
    drive = opening()
    drive.head()
    effects = drive.end(code)
    told = ["Stalled"] if code is FailureCode.STALLED else []
    assert kinds(effects) == [*told, "AttemptEnded", "Report", "Retried", "SendAsk"]
    ask = asked(effects).ask
    assert ask.attempt == 2
    assert ask.excluded == {A: f"{code.value}: because"}
    drive.assigned(B)
    drive.head()
    drive.data(b"data: x\n\n")
    assert drive.delivered() == b"data: x\n\n"


def test_a_deadline_at_the_machine_is_final() -> None:
    assert refused(opening().end(FailureCode.DEADLINE_EXCEEDED)) == (504, Code.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    ("code", "attempts", "expected"),
    [
        (FailureCode.LINK_LOST, SETTINGS.attempts_max, Code.ATTEMPTS_EXHAUSTED),
        (FailureCode.ENGINE_FAILED, SETTINGS.engine_failures_max, Code.ATTEMPTS_EXHAUSTED),
        (FailureCode.RESOURCE_EXHAUSTED, SETTINGS.refusals_max, Code.POOL_BUSY),
    ],
)
def test_attempts_are_bounded(code: FailureCode, attempts: int, expected: Code) -> None:
    drive = Drive()
    drive(ev.Started(LEADER))
    for _ in range(100):
        drive.assigned(A)
        if refusal := [e for e in drive.end(code) if isinstance(e, ev.Refuse)]:
            assert refusal[0].error.code is expected
            break
    assert drive.machine.opened == attempts
    assert drive.budget.used == 0


def test_no_new_attempt_starts_after_the_time_for_retries() -> None:
    drive = opening()
    drive.now_s += SETTINGS.retry_within_s + 1
    assert refused(drive.end(FailureCode.LINK_LOST)) == (503, Code.ATTEMPTS_EXHAUSTED)


def test_when_all_are_full_it_waits_for_the_time_they_name_and_asks_again() -> None:
    drive = opening()
    drive.end(FailureCode.RESOURCE_EXHAUSTED, retry_after_ms=400)
    drive.no_candidate()
    assert drive.machine.phase is Phase.BACKING_OFF
    ask = asked(drive.wake()).ask
    assert drive.now_s == pytest.approx(FACTS.arrived_s + 0.4)
    assert ask.excluded == {}


def test_a_500_is_retried_and_the_last_one_passed_on() -> None:
    drive = Drive()
    drive(ev.Started(LEADER))
    for _ in range(SETTINGS.engine_failures_max):
        drive.assigned(A)
        drive.head(500, JSON)
        drive.data(b'{"error":"boom"}')
        drive.end()
    assert drive.machine.phase is Phase.DONE
    assert drive.delivered() == b'{"error":"boom"}'
    assert [e.status for e in drive.effects if isinstance(e, ev.DeliverHead)] == [500]
    assert drive.budget.used == 0


def test_an_error_that_was_not_the_last_word_is_not_passed_on() -> None:
    drive = opening(A)
    drive.head(500, JSON)
    drive.data(b"{}")
    drive.end()
    while drive.machine.phase is not Phase.DONE:
        drive.assigned(B)
        effects = drive.end(FailureCode.LINK_LOST)
    assert refused(effects) == (503, Code.ATTEMPTS_EXHAUSTED)
    assert drive.delivered() == b""


def test_who_stands_in_line_is_refused_when_its_time_is_over() -> None:
    drive = Drive()
    drive(ev.Started(None))
    assert drive(ev.NoCandidate(drive.machine.attempt, KNOWN, in_line=True)) == []
    assert kinds(drive.wake()) == ["DecideAlone"]
    assert drive.now_s == FACTS.arrived_s + SETTINGS.queue_wait_s
    effects = drive(ev.NoCandidate(drive.machine.attempt, KNOWN, in_line=True))
    assert refused(effects) == (503, Code.POOL_BUSY)


def test_an_engines_full_queue_counts_as_busy_however_it_says_so() -> None:
    drive = opening()
    drive.head(503, JSON)
    assert asked(drive.end()).ask.excluded == {A: "resource_exhausted: the engine answered 503"}
    drive = opening()
    drive.head()
    effects = drive.data(b'data: {"error": {"message": "queue full", "code": 503}}\n\n')
    assert kinds(effects) == ["CancelUpstream", "AttemptEnded", "Report", "Retried", "SendAsk"]
    assert drive.delivered() == b""


@pytest.mark.parametrize("status", [400, 404, 422, 429, 501])
def test_an_engines_answer_of_any_other_status_is_the_clients(status: int) -> None:
    drive = opening(streaming=False)
    drive.head(status, JSON)
    drive.data(b'{"error":1}')
    assert kinds(drive.end()) == ["DeliverHead", "DeliverData", "DeliverEnd", "AttemptEnded", "Report"]
    assert drive.machine.status == status


def test_an_end_without_a_head_is_the_machines_fault() -> None:
    assert "Retried" in kinds(opening().end())


# --- what is held back ---------------------------------------------------------------------------------------------


def test_a_whole_answer_is_held_until_complete_so_that_a_death_in_the_middle_is_invisible() -> None:
    drive = opening(streaming=False)
    drive.head(200, JSON)
    assert drive.data(b'{"half') == []
    assert drive.budget.used == 6
    drive.end(FailureCode.LINK_LOST)
    assert drive.budget.used == 0
    drive.assigned(B)
    drive.head(200, JSON)
    drive.data(b'{"usage":{"prompt_tokens":3,')
    drive.data(b'"completion_tokens":4}}')
    drive.end()
    assert drive.delivered() == b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'
    assert drive.machine.usage == (3, 4)
    assert drive.machine.opened == 2
    assert drive.budget.used == 0
    report = [e.report for e in drive.effects if isinstance(e, ev.Report)][-1]
    assert (report.node_id, report.failed, report.output_tokens) == (B, False, 4)


def test_an_answer_larger_than_the_bound_is_passed_on_as_it_comes() -> None:
    drive = Drive(replace(FACTS, streaming=False), RequestSettings(buffered_answer_bytes_max=10))
    drive(ev.Started(LEADER))
    drive.assigned(A)
    drive.head(200, JSON)
    drive.data(b"12345678")
    assert kinds(drive.data(b"90ab")) == ["DeliverHead", "DeliverData"]
    assert drive.delivered() == b"1234567890ab"
    assert drive.machine.relay(b"cd") == b"cd"
    assert kinds(drive.end(FailureCode.LINK_LOST)) == ["DeliverEnd", "AttemptEnded", "Report"]
    assert drive.machine.broken
    assert drive.budget.used == 0


def test_the_common_bound_counts_too() -> None:
    drive = Drive(replace(FACTS, streaming=False))
    drive(ev.Started(LEADER))
    drive.assigned(A)
    drive.head(200, JSON)
    drive.budget.take(SETTINGS.buffered_total_bytes_max - 3)
    assert kinds(drive.data(b"four")) == ["DeliverHead", "DeliverData"]


def test_a_torn_first_event_is_held_back() -> None:
    drive = opening()
    drive.head()
    assert drive.data(b"data: tor") == []
    assert drive.machine.phase is Phase.OPENING
    drive.data(b"n\n\nda")
    assert drive.delivered() == b"data: torn\n\n"


# --- after the first byte ------------------------------------------------------------------------------------------


def test_a_broken_stream_ends_in_one_clean_error_event() -> None:
    drive = relaying()
    drive.data(b'data: {"half of an ev')
    effects = drive.end(FailureCode.LINK_LOST)
    assert kinds(effects) == ["ContinuationEnded", "DeliverData", "DeliverEnd", "AttemptEnded", "Report"]
    events = drive.delivered().split(b"\n\n")
    assert events[0] == b"data: 1"
    assert json.loads(events[1].removeprefix(b"data: "))["error"]["code"] == "stream_broken"
    assert events[2:] == [b""]
    assert b"[DONE]" not in drive.delivered()
    assert drive.machine.broken


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
def test_typed_streams_get_a_typed_error(path: str) -> None:
    drive = opening(path=path)
    drive.head()
    drive.data(b"event: x\ndata: {}\n\n")
    drive.end(FailureCode.ENGINE_FAILED)
    assert drive.delivered().split(b"\n\n")[1].startswith(b"event: error\ndata: {")


def test_what_was_held_back_goes_out_when_the_stream_ends_well() -> None:
    drive = relaying()
    drive.data(b"data: unended")
    drive.end()
    assert drive.delivered() == b"data: 1\n\ndata: unended"


def test_a_deadline_cuts_a_running_stream() -> None:
    drive = opening(deadline_at_s=FACTS.arrived_s + 2)
    drive.head()
    drive.data(b"data: 1\n\n")
    effects = drive.wake()
    assert kinds(effects) == ["CancelUpstream", "DeliverData", "DeliverEnd", "AttemptEnded", "Report"]
    assert b"deadline_exceeded" in drive.delivered()


# --- the client leaves ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("phase", "expected"),
    [
        (Phase.NEW, []),
        (Phase.ASKING, ["Report"]),
        (Phase.QUEUED, ["Report"]),
        (Phase.BACKING_OFF, []),
        (Phase.OPENING, ["CancelUpstream", "AttemptEnded", "Report"]),
        (Phase.RELAYING, ["CancelUpstream", "AttemptEnded", "Report"]),
        (Phase.DONE, []),
    ],
)
def test_a_client_that_leaves(phase: Phase, expected: list[str]) -> None:
    drive = in_phase(phase)
    effects = drive(ev.ClientGone())
    assert kinds(effects) == expected
    assert drive.machine.phase is Phase.DONE
    assert drive.budget.used == 0
    if phase in (Phase.ASKING, Phase.QUEUED):
        report = effects[0]
        assert isinstance(report, ev.Report)
        assert report.report.withdrawn
    if phase is not Phase.DONE:
        assert drive.machine.status == 499


@pytest.mark.parametrize("end", ["client gone", "a bug of ours"])
def test_what_is_held_is_given_back_however_it_ends(end: str) -> None:
    drive = opening()
    drive.head(content_type=JSON)
    drive.data(b'{"half an')
    assert drive.budget.used == 9
    if end == "client gone":
        drive(ev.ClientGone())
    else:
        drive.machine.abandon()
    assert drive.budget.used == 0
    assert drive.machine.phase is Phase.DONE
