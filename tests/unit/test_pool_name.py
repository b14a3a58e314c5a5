"""The pool's name: which questions are answered and when."""

from __future__ import annotations

import pytest

from covey_mesh.core.pool_name import (
    ANNOUNCEMENTS,
    ANSWER_DELAY_MAX_S,
    ANSWER_DELAY_MIN_S,
    MULTICAST_INTERVAL_S,
    POOL_NAME_TTL_S,
    TYPE_A,
    TYPE_AAAA,
    TYPE_ANY,
    UNICAST_ANSWERS_PER_S,
    KnownAnswer,
    PoolNameAnswers,
    Question,
    pool_host,
)

HOST = "covey.local."
ASK = Question(HOST, TYPE_A)


def quiet(now_s: float = 0.0) -> PoolNameAnswers:
    """One that has announced its two addresses already."""
    answers = PoolNameAnswers(HOST)
    answers.set_addresses(["10.0.0.1", "fd00::1"], now_s)
    for number in range(ANNOUNCEMENTS):
        answers.sent(now_s + number)
    return answers


@pytest.mark.parametrize(("name", "host"), [("covey", HOST), (" Office-2 ", "office-2.local."), ("a", "a.local.")])
def test_pool_host(name: str, host: str) -> None:
    assert pool_host(name) == host


@pytest.mark.parametrize("name", ["", "-a", "a-", "a.b", "a b", "ü", "x" * 64, "a_b", "a\n"[:1] + "\nb"])
def test_a_name_that_cannot_be_a_host_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits and hyphens"):
        pool_host(name)


def test_announced_twice_a_second_apart() -> None:
    answers = PoolNameAnswers(HOST)
    assert answers.due_at_s() is None
    assert answers.set_addresses(["10.0.0.1"], 5.0) == ()
    assert answers.due_at_s() == 5.0
    answers.sent(5.0)
    assert answers.due_at_s() == 5.0 + MULTICAST_INTERVAL_S
    answers.sent(6.0)
    assert answers.due_at_s() is None


@pytest.mark.parametrize(
    ("question", "asked"),
    [
        (Question(HOST, TYPE_A), True),
        (Question("COVEY.Local.", TYPE_A), True),
        (Question(HOST, TYPE_AAAA), True),
        (Question(HOST, TYPE_ANY), True),
        (Question(HOST, 16), False),
        (Question("other.local.", TYPE_A), False),
        (Question("x.covey.local.", TYPE_A), False),
    ],
)
def test_which_questions_are_ours(question: Question, asked: bool) -> None:
    assert quiet().asks_for_us([question], []) is asked


def test_a_missing_family_is_not_answered() -> None:
    answers = PoolNameAnswers(HOST)
    answers.set_addresses(["10.0.0.1"], 0.0)
    assert not answers.asks_for_us([Question(HOST, TYPE_AAAA)], [])


@pytest.mark.parametrize(
    ("known", "asked"),
    [
        ([KnownAnswer(HOST, "10.0.0.1", POOL_NAME_TTL_S)], False),
        ([KnownAnswer(HOST, "10.0.0.1", POOL_NAME_TTL_S / 2 - 1)], True),
        ([KnownAnswer(HOST, "10.0.0.2", POOL_NAME_TTL_S)], True),
        ([KnownAnswer("other.local.", "10.0.0.1", POOL_NAME_TTL_S)], True),
    ],
)
def test_what_the_asker_knows_is_not_repeated(known: list[KnownAnswer], asked: bool) -> None:
    assert quiet().asks_for_us([ASK], known) is asked


@pytest.mark.parametrize(("chance", "delay_s"), [(0.0, ANSWER_DELAY_MIN_S), (0.5, 0.07)])
def test_an_answer_waits_its_random_delay(chance: float, delay_s: float) -> None:
    answers = quiet()
    answers.asked(100.0, chance)
    assert answers.due_at_s() == pytest.approx(100.0 + delay_s)
    assert delay_s < ANSWER_DELAY_MAX_S


def test_many_questions_give_one_answer_a_second() -> None:
    answers = quiet()
    answers.asked(100.0, 0.9)
    answers.asked(100.01, 0.0)
    due = answers.due_at_s()
    assert due == pytest.approx(100.01 + ANSWER_DELAY_MIN_S), "the earliest of the waiting answers serves all"
    answers.sent(100.03)
    for step in range(50):
        answers.asked(100.04 + step * 0.001, 0.0)
    assert answers.due_at_s() == pytest.approx(100.03 + MULTICAST_INTERVAL_S)


def test_changed_addresses_say_goodbye_to_the_old_ones_only() -> None:
    answers = quiet()
    assert answers.set_addresses(["fd00::1", "10.0.0.9"], 50.0) == ("10.0.0.1",)
    assert answers.due_at_s() == 50.0
    assert answers.set_addresses([], 51.0) == ("fd00::1", "10.0.0.9")
    assert answers.due_at_s() is None
    assert not answers.asks_for_us([ASK], [])


def test_direct_answers_are_bounded() -> None:
    answers = quiet()
    allowed = sum(answers.asked_by_unicast(7.0) for _ in range(1000))
    assert allowed == UNICAST_ANSWERS_PER_S
    assert answers.asked_by_unicast(7.0 + 1.01 / UNICAST_ANSWERS_PER_S)
