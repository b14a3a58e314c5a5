"""The judge of the chaos runs: each kind of violation is one, and nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.lan.chaos import logs
from tests.lan.chaos.judging import GatewayHistory, Outcome, Told, judge, wrong_text
from tests.lan.chaos.kinds import KINDS
from tests.lan.chaos.observation import Ended, Observation, from_line

TEXT = "one two three four five six seven eight"
UNDISTURBED = {(kind, 0): Told(TEXT, 8) for kind in KINDS}
WELL = Observation(
    kind="chat-stream",
    entry="h1",
    model="shared",
    prompt_number=0,
    started_s=100.0,
    ended=Ended.FINISHED,
    ended_s=101.0,
    status=200,
    attempts=1,
    text=TEXT,
    finishes=1,
    output_tokens=8,
)
BROKEN = replace(WELL, ended=Ended.ERROR_EVENT, text="one two", finishes=0, code="stream_broken", detail="It broke.")
REFUSED = replace(
    WELL,
    ended=Ended.REFUSED,
    text="",
    finishes=0,
    status=503,
    retry_after="2",
    code="pool_busy",
    detail="All are busy.",
)
KILLED = GatewayHistory(ended=[(100.5, float("inf"))])


@pytest.mark.parametrize(
    ("seen", "outcome"),
    [
        (WELL, Outcome.COMPLETE),
        (replace(WELL, attempts=2), Outcome.RETRIED),
        (replace(WELL, continued=1), Outcome.CONTINUED),
        (BROKEN, Outcome.CLEAN_ERROR),
        (replace(BROKEN, ended=Ended.CUT), Outcome.VIOLATION),
        (replace(BROKEN, ended=Ended.SILENT), Outcome.VIOLATION),
        (replace(WELL, ended=Ended.UNREACHABLE, text="", finishes=0), Outcome.VIOLATION),
        (replace(BROKEN, detail=""), Outcome.VIOLATION),
        (replace(BROKEN, finishes=1), Outcome.VIOLATION),
        (replace(WELL, text="one two three"), Outcome.VIOLATION),
        (replace(WELL, text=TEXT + " nine"), Outcome.VIOLATION),
        (replace(WELL, finishes=2), Outcome.VIOLATION),
        (replace(WELL, finishes=0), Outcome.VIOLATION),
        (replace(WELL, output_tokens=7), Outcome.VIOLATION),
        (replace(WELL, kind="unsound-stream", continued=1), Outcome.VIOLATION),
        (replace(WELL, ended=Ended.MALFORMED), Outcome.VIOLATION),
        (REFUSED, Outcome.VIOLATION),
    ],
)
def test_outcomes(seen: Observation, outcome: Outcome) -> None:
    assert judge(seen, UNDISTURBED, GatewayHistory()).outcome is outcome


def test_a_refusal_is_one_only_where_it_may_be_and_says_why() -> None:
    nothing = GatewayHistory()
    assert judge(REFUSED, UNDISTURBED, nothing, may_refuse=True).outcome is Outcome.REFUSED
    for unclear in (replace(REFUSED, detail=""), replace(REFUSED, code="None"), replace(REFUSED, retry_after="")):
        assert judge(unclear, UNDISTURBED, nothing, may_refuse=True).outcome is Outcome.VIOLATION


def test_a_killed_gateway_excuses_an_end_but_never_a_wrong_text() -> None:
    cut = replace(BROKEN, ended=Ended.CUT, code="")
    assert judge(cut, UNDISTURBED, KILLED).outcome is Outcome.GATEWAY_GONE
    assert judge(replace(cut, text="one three"), UNDISTURBED, KILLED).outcome is Outcome.VIOLATION
    earlier = GatewayHistory(ended=[(50.0, 99.0)])
    assert judge(cut, UNDISTURBED, earlier).outcome is Outcome.VIOLATION


def test_an_answer_that_outlives_its_machine_must_say_so() -> None:
    long = replace(WELL, ended_s=110.0, first_token_s=0.5, last_piece_s=109.0)
    killed = GatewayHistory(killed=[105.0])
    judged = lambda seen, machine: judge(seen, UNDISTURBED, GatewayHistory(), machine=machine).outcome  # noqa: E731
    assert judged(long, killed) is Outcome.VIOLATION
    assert judge(long, UNDISTURBED, GatewayHistory(), machine=killed, lag_s=2.0).outcome is Outcome.COMPLETE
    assert judged(replace(long, continued=1), killed) is Outcome.CONTINUED
    assert judged(replace(long, attempts=2), GatewayHistory(killed=[100.2])) is Outcome.RETRIED, "before its first text"
    assert judged(long, GatewayHistory(killed=[108.9])) is Outcome.COMPLETE, "its last words were on their way"
    assert judged(long, GatewayHistory(ended=[(105.0, 106.0)])) is Outcome.COMPLETE, "asked to stop, it may finish"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", ""),
        ("one two", ""),
        (TEXT, ""),
        ("one two thr", ""),
        ("one two two three", "duplicated"),
        ("one two three one two three four", "duplicated"),
        ("one two four five six", "lost"),
        ("one two blue sky", "torn"),
        (TEXT + " one", "duplicated"),
    ],
)
def test_what_is_wrong_with_a_text(text: str, what: str) -> None:
    assert wrong_text(text, TEXT).startswith(what)
    assert bool(wrong_text(text, TEXT)) == bool(what)


def test_an_observation_survives_its_line() -> None:
    assert from_line(BROKEN.as_line()) == BROKEN


def line(at: str, leader: str | None, counter: int) -> str:
    known = "null" if leader is None else f'"{leader}"'
    return f'{{"time": "2026-01-02T03:04:{at}Z", "message": "leader: x", "leader": {known}, "counter": {counter}}}'


def test_leadership_from_logs() -> None:
    found = logs.records(
        [
            "covey 0.1.0 on h1",
            line("05.000", "a", 1),
            line("06.000", None, 1),
            line("06.250", None, 1),
            line("06.500", "b", 2),
            '{"time": "2026-01-02T03:04:07.125Z", "message": "link lost", "peer": "c", "loss": "reset"}',
        ]
    )
    changes = logs.followed(found)
    assert [gap_s for _, gap_s in logs.leaderless_s(changes)] == [0.5]
    assert logs.ballots_fell(changes) == []
    assert [lost.peer for lost in logs.links_lost(found)] == ["c"]
    assert logs.links_lost(found)[0].at_s % 1 == 0.125


def test_a_lower_ballot_is_noticed() -> None:
    fell = logs.followed(logs.records([line("05.000", "b", 2), line("06.000", "a", 2)]))
    assert len(logs.ballots_fell(fell)) == 1
