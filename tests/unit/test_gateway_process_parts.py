"""What agent and gateway processes say to each other, piece by piece: frames, ids, figures, the pool's changes."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from tests.support.gateway import SELF, A, B, C

from covey_gateway.core.observer import RequestSummary
from covey_gateway.core.process_ids import local_part, process_of
from covey_gateway.core.restarting import PAUSE_MAX_S, STEADY_S, in_a_row, restart_pause_s
from covey_gateway.io.processes.observed import ObservedElsewhere, read_events
from covey_gateway.io.processes.pool_change import SILENCE_CHANGED_S, ChangeWriter, changed_view
from covey_gateway.io.processes.relayed import addressed, message_of
from covey_mesh.core.asking import Answer, CandidateVerdict, Decision, Outcome, Tallied
from covey_mesh.core.ballot import Ballot
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad, PoolView
from covey_mesh.core.ports import LinkLoss
from covey_mesh.io.codec_values import PeerProtocolError
from covey_mesh.wire.v1 import link_pb2

# Ids and restarts


@pytest.mark.parametrize(
    ("request_id", "process"),
    [
        (f"req-1a2b3c4d-{local_part(1, 0xABC)}", 1),
        (f"req-1a2b3c4d-{local_part(63, 2**44 - 1)}.12-3", 63),
        ("req-1a2b3c4d-0123456789ab", 0),
        ("req-1a2b3c4d-99999999p", 0),
        ("req--1p0", 0),
        ("1p0", 0),
        ("", 0),
        ("req-1a2b3c4d-" + "1" * 10_000, 0),
    ],
)
def test_a_requests_id_says_who_took_it(request_id: str, process: int) -> None:
    assert process_of(request_id) == process


def test_pauses_double_to_a_bound_and_begin_anew_after_a_long_life() -> None:
    pauses = [restart_pause_s(ended) for ended in range(1, 12)]
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == PAUSE_MAX_S == restart_pause_s(10**6)
    assert in_a_row(5, STEADY_S - 0.1) == 6
    assert in_a_row(5, STEADY_S) == 1


# Figures

SUMMARY = RequestSummary("/v1/chat/completions", "m", A, 200, True, 1.5, 0.25, 9, 7, 8, 2, False, 1)
CALLS: list[tuple[str, tuple[Any, ...]]] = [
    ("request_started", ("/v1/completions", "m")),
    ("first_byte", ("m", A, 0.5)),
    ("finished", (SUMMARY,)),
    ("finished", (replace(SUMMARY, node_id=None, first_byte_s=None, status=499),)),
    ("part_finished", (SUMMARY,)),
    ("retried", ("link_lost",)),
    ("refused", ("gateway_full",)),
    ("stream_broke", ("resumed", 0.75)),
    ("stream_broke", ("unsound", None)),
    ("stalled", ("m", A, True)),
    ("ask_timed_out", ()),
    ("straight", ("/v1/completions", "m", A, 0.25, 12, 1)),
    ("decided_alone", ()),
    ("request_cut", ("/v1/embeddings", 12)),
    ("loop_lagged", (0.125,)),
]


class Recorder:
    """An observer that remembers every call."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, arguments))


def test_every_figure_arrives_as_it_was_seen() -> None:
    due: list[None] = []
    there, here = ObservedElsewhere(lambda: due.append(None)), Recorder()
    for name, arguments in CALLS:
        getattr(there, name)(*arguments)
    assert len(due) == 1
    for event in read_events(there.take()):
        event.tell(here)  # type: ignore[arg-type]
    assert here.calls == CALLS
    assert there.take() == b""


def test_a_look_at_the_loop_wakes_nobody_and_a_request_after_it_does() -> None:
    due: list[None] = []
    there = ObservedElsewhere(lambda: due.append(None))
    for _ in range(1000):
        there.loop_lagged(0.1)
    assert not due
    there.decided_alone()
    assert len(due) == 1
    assert len(read_events(there.take())) < 100


_PACK = msgspec.msgpack.encode
_FINE = {name: getattr(SUMMARY, name) for name in RequestSummary.__slots__}


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        _PACK({"RequestStarted": 1}),
        _PACK([["Unheard", 1]]),
        _PACK([["RequestStarted", "/etc/passwd", "m"]]),
        _PACK([["RequestStarted", "/v1/completions", "m" * 5000]]),
        _PACK([["RequestStarted", "/v1/completions"]]),
        _PACK([["FirstByte", "m", A, -1.0]]),
        _PACK([["FirstByte", "m", A, math.nan]]),
        _PACK([["FirstByte", "m", A, math.inf]]),
        _PACK([["FirstByte", "m", A, "soon"]]),
        _PACK([["Straight", "/", "m", A, 0.5, 1, 1]]),
        _PACK([["Straight", "/v1/completions", "m", A, -0.5, 1, 1]]),
        _PACK([["Straight", "/v1/completions", "m", A, 0.5, -1, 1]]),
        _PACK([["Finished", {**_FINE, "status": 1}, False]]),
        _PACK([["Finished", {**_FINE, "prompt_tokens": -1}, False]]),
        _PACK([["Finished", {**_FINE, "path": "/"}, False]]),
        _PACK([["Finished", {"path": "/v1/completions"}, False]]),
        _PACK([["Retried", "a label of somebody's own"]]),
        _PACK([["Refused", "a label of somebody's own"]]),
        _PACK([["StreamBroke", "a label of somebody's own", None]]),
        _PACK([["RequestCut", "/v1/embeddings", -3]]),
        _PACK([["LoopLagged", -3.0]]),
    ],
)
def test_figures_that_nobody_can_have_seen_are_refused(raw: bytes) -> None:
    with pytest.raises(PeerProtocolError):
        read_events(raw)


# The pool's changes


def member(node: Any, sequence: int = 1, **changes: Any) -> Member:
    facts = NodeFacts(node, f"host-{node[:1]}", "1", 1, 1)
    return Member(facts, NodeLoad(node, 1, sequence), **{"reachable": True, **changes})


def test_a_copy_of_the_view_stays_like_the_agents() -> None:
    dice = random.Random(7)
    members = {node: member(node) for node in (SELF, A, B, C)}
    writer, copy = ChangeWriter(), PoolView(SELF)
    for version in range(200):
        node = dice.choice((A, B, C))
        if dice.random() < 0.2:
            members.pop(node, None)
        else:
            members[node] = member(node, version, reachable=dice.random() < 0.7, round_trip_s=dice.random())
        leader = dice.choice((None, SELF, A))
        view = PoolView(SELF, version, leader, Ballot(version, leader or SELF), dict(members))
        message = writer.change(view)
        assert message is not None
        copy = changed_view(copy, link_pb2.PoolChange.FromString(message.SerializeToString())).view
        assert {n: m.load for n, m in copy.members.items()} == {n: m.load for n, m in view.members.items()}
        assert {n: m.reachable for n, m in copy.members.items()} == {n: m.reachable for n, m in members.items()}
        assert (copy.version, copy.leader, copy.ballot) == (version, leader, view.ballot)


def test_only_what_changed_is_told() -> None:
    writer = ChangeWriter()
    first = PoolView(SELF, 1, SELF, Ballot(1, SELF), {node: member(node) for node in (SELF, A)})
    told = writer.change(first)
    assert told is not None
    assert len(told.members) == 2
    assert writer.change(first) is None
    silent = replace(first.members[A], silent_for_s=SILENCE_CHANGED_S * 0.6)
    assert writer.change(replace(first, members={**first.members, A: silent})) is None
    longer = replace(silent, silent_for_s=SILENCE_CHANGED_S * 1.2)
    told = writer.change(replace(first, members={**first.members, A: longer}))
    assert told is not None
    assert [each.facts.node_id for each in told.members] == [A]
    told = writer.change(replace(first, members={SELF: first.members[SELF]}), [(A, LinkLoss.RESET)])
    assert told is not None
    assert (list(told.gone), told.lost[0].loss) == ([A], "RESET")
    told = writer.change(replace(first, members={SELF: first.members[SELF]}, leader=None))
    assert told is not None
    assert told.leader_node_id == ""
    assert not told.members


def test_a_loss_of_a_later_build_is_one_on_purpose() -> None:
    lost = link_pb2.PoolChange.LostLink(node_id=A, loss="EATEN")
    assert changed_view(PoolView(SELF), link_pb2.PoolChange(lost=[lost])).lost == ((A, LinkLoss.CLOSED),)


@pytest.mark.parametrize(
    "message",
    [
        link_pb2.PoolChange(leader_node_id="nobody"),
        link_pb2.PoolChange(gone=["nobody"]),
        link_pb2.PoolChange(gone=[A] * 5000),
        link_pb2.PoolChange(lost=[link_pb2.PoolChange.LostLink(node_id="x" * 40)]),
        link_pb2.PoolChange(members=[link_pb2.PoolChange().members.add()]),
    ],
)
def test_a_change_that_no_agent_sends_is_refused(message: link_pb2.PoolChange) -> None:
    with pytest.raises(PeerProtocolError):
        changed_view(PoolView(SELF), message)


# Asks and answers


def verdict(node: Any, why: str = "") -> CandidateVerdict:
    return CandidateVerdict(node, why, 0.5, 1.5, {"queue": 0.1})


class Lazy(Tallied):
    """Verdicts that are not to be worked out."""

    def tally(self) -> tuple[int, int]:
        return 3, 4

    def __len__(self) -> int:
        raise AssertionError("worked out")

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("worked out")


@pytest.mark.parametrize(
    ("candidates", "tally"), [((verdict(A), verdict(B, "full"), verdict(C, "full")), (1, 2)), (Lazy(), (3, 4))]
)
def test_an_assignment_goes_to_a_process_with_the_number_of_its_verdicts(candidates: Any, tally: Any) -> None:
    decision = Decision(
        "req-1", 2, "m", 9.5, "leader", B, Outcome.ASSIGNED, "predicted", Ballot(3, B), 7, A, 0.5, candidates
    )
    answer = Answer("req-1", 2, Outcome.ASSIGNED, A, decision, user_ahead_tokens=5)
    wire = link_pb2.Relayed.FromString(addressed(B, answer).SerializeToString())
    sender, found = message_of(wire)
    assert sender == B
    assert isinstance(found, Answer)
    assert found.decision is not None
    assert found.decision.why == decision.why == f"predicted: best of {tally[0]}, {tally[1]} rejected, by leader"
    assert list(found.decision.candidates) == []
    assert replace(found, decision=None) == replace(answer, decision=None)
    assert replace(found.decision, candidates=()) == replace(decision, candidates=())


@pytest.mark.parametrize("outcome", [Outcome.QUEUED, Outcome.NO_CANDIDATE])
def test_what_is_no_assignment_keeps_its_reasons(outcome: Outcome) -> None:
    decision = Decision("req-1", 2, "m", 9.5, "leader", B, outcome, "predicted", candidates=(verdict(A, "full"),))
    answer = Answer("req-1", 2, outcome, None, decision, 70)
    assert message_of(addressed(B, answer)) == (B, answer)
