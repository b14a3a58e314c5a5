"""Measuring a pair, answering other doctors, surveying a pool: over a fake mesh, in which no machine is honest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.links import new_pool

from covey.doctor import measuring, peer_probes, rendezvous, survey
from covey.doctor.allowance import Allowance
from covey.doctor.measuring import BULK, BULK_SIZES_BYTES, CLOCK, DIAL, MULTICAST, PAIR, PAIR_BYTES_MAX, Measurer
from covey.doctor.pair import (
    BadReportError,
    Dials,
    Heard,
    PairMeasure,
    Survey,
    dials_from_json,
    pair_from_json,
    pair_to_json,
    read_json,
    survey_from_json,
    survey_to_json,
)
from covey.doctor.peer_probes import PeerProbes
from covey.doctor.survey import MACHINES_MAX, Surveyor, is_near, pairs_of
from covey_mesh.core.addresses import InterfaceAddress
from covey_mesh.core.facts import Member, NodeFacts, NodeLoad, PoolView
from covey_mesh.core.names import NodeId
from covey_mesh.io.identity import Identity
from covey_mesh.io.path_probe import PathProbe, Reach

A, B, C = (NodeId(letter * 32) for letter in "abc")
WHOLE = Dials((PathProbe("10.0.0.2:8082", Reach.WHOLE),), ())
SMALL = Dials((PathProbe("10.0.0.2:8082", Reach.SMALL, "vanish"),), ())
FULL = PairMeasure(A, B, 0.001, -2.5, 1e6, None, SMALL, None)
OTHERS_CLOCK_S = 1030.0


def member(node_id: NodeId, reachable: bool = True, addresses: tuple[str, ...] = ()) -> Member:
    return Member(NodeFacts(node_id, node_id[:1], "0", 1, 1, addresses), NodeLoad(node_id, 1, 1), reachable)


class FakeMesh:
    """Time passes only with questions: 10 ms each, and 1 ms for each KiB."""

    self_id = A

    def __init__(self, members: Sequence[Member] = ()) -> None:
        self.now_s = 0.0
        self.members = {one.node_id: one for one in (member(A), *members)}
        self.asked: list[tuple[NodeId, str, int]] = []
        self.handlers: dict[str, Any] = {}
        self.answers: dict[str, Callable[[NodeId, bytes], bytes | None]] = {
            CLOCK: lambda node_id, payload: repr(OTHERS_CLOCK_S + self.now_s - 0.005).encode(),
            BULK: lambda node_id, payload: bytes(int.from_bytes(payload[:4], "big")),
            DIAL: lambda node_id, payload: json.dumps(pair_to_json(PairMeasure(A, B, there=WHOLE))["there"]).encode(),
        }

    def clock(self) -> float:
        return self.now_s

    def unix_clock(self) -> float:
        return 1000.0 + self.now_s

    def view(self) -> PoolView:
        return PoolView(A, members=self.members)

    async def query(self, node_id: NodeId, kind: str, payload: bytes, timeout_s: float) -> bytes | None:
        self.asked.append((node_id, kind, len(payload)))
        answered = self.answers.get(kind)
        self.now_s += 0.01
        answer = answered(node_id, payload) if answered is not None else None
        self.now_s += (len(payload) + len(answer or b"")) / 1024 * 0.001
        return answer

    def answer_queries(self, kind: str, handler: Any) -> None:
        self.handlers[kind] = handler

    def answer_queries_later(self, kind: str, handler: Any) -> None:
        self.handlers[kind] = handler


@pytest.fixture
def own(tmp_path: Path) -> Identity:
    return new_pool(tmp_path)


def measurer(mesh: FakeMesh, own: Identity) -> Measurer:
    return Measurer(mesh, own, mesh.clock, mesh.unix_clock)


# --- measuring ---


@pytest.mark.asyncio
async def test_clock_round_trip_and_rates(own: Identity) -> None:
    mesh = FakeMesh([member(B)])
    found = await measurer(mesh, own).measure(B)
    assert found.round_trip_s == pytest.approx(0.01, rel=0.01)
    assert found.skew_s == pytest.approx(30.0, abs=0.01)
    assert found.out_bytes_per_s == pytest.approx(1024_000, rel=0.02)
    assert found.in_bytes_per_s == pytest.approx(1024_000, rel=0.02)
    assert (found.there, found.back) == (Dials(), WHOLE)


def test_a_pair_costs_at_most_its_bound() -> None:
    assert 2 * (sum(BULK_SIZES_BYTES) + BULK_SIZES_BYTES[-1]) <= PAIR_BYTES_MAX


@pytest.mark.asyncio
async def test_a_slow_link_is_not_blocked_by_the_measurement(own: Identity) -> None:
    mesh = FakeMesh([member(B)])
    mesh.answers[BULK] = lambda node_id, payload: _after(mesh, 1.0)
    found = await measurer(mesh, own).measure(B)
    assert [size for _, kind, size in mesh.asked if kind == BULK] == [BULK_SIZES_BYTES[0] + 4] * 2 + [4] * 2
    assert found.out_bytes_per_s is not None
    assert found.out_bytes_per_s < BULK_SIZES_BYTES[0]


@pytest.mark.asyncio
async def test_a_busy_moment_is_no_slow_link(own: Identity) -> None:
    mesh = FakeMesh([member(B)])
    honest, waits_s = mesh.answers[BULK], [0.0, 2.0]

    def late(node_id: NodeId, payload: bytes) -> bytes | None:
        mesh.now_s += waits_s.pop(0) if waits_s else 0.0
        return honest(node_id, payload)

    mesh.answers[BULK] = late
    found = await measurer(mesh, own).measure(B)
    assert found.out_bytes_per_s == pytest.approx(1024_000, rel=0.02)


@pytest.mark.asyncio
@pytest.mark.parametrize(("after_s", "rate"), [(0.1, None), (3.0, BULK_SIZES_BYTES[0] / 3.0)])
async def test_what_is_not_through_in_time_is_slow_and_what_is_refused_unknown(
    own: Identity, after_s: float, rate: float | None
) -> None:
    mesh = FakeMesh([member(B)])

    def silent(node_id: NodeId, payload: bytes) -> None:
        mesh.now_s += after_s

    mesh.answers[BULK] = silent
    found = await measurer(mesh, own).measure(B)
    assert found.in_bytes_per_s == (rate if rate is None else pytest.approx(rate, rel=0.02))


def _after(mesh: FakeMesh, seconds: float) -> bytes:
    mesh.now_s += seconds
    return bytes(BULK_SIZES_BYTES[0])


@pytest.mark.asyncio
async def test_full_packets_that_vanish_are_not_sent_over_the_link(own: Identity) -> None:
    mesh = FakeMesh([member(B)])
    mesh.answers[DIAL] = lambda node_id, payload: json.dumps(pair_to_json(FULL)["there"]).encode()
    found = await measurer(mesh, own).measure(B)
    assert BULK not in {kind for _, kind, _ in mesh.asked}
    assert (found.out_bytes_per_s, found.back) == (None, SMALL)


@pytest.mark.asyncio
@pytest.mark.parametrize("told", [None, b"", b"nan", b"inf", b"x", b"1" * 33, b"\xff"])
async def test_a_clock_that_says_nonsense(own: Identity, told: bytes | None) -> None:
    mesh = FakeMesh([member(B)])
    mesh.answers[CLOCK] = lambda node_id, payload: told
    found = await measurer(mesh, own).measure(B)
    assert not found.linked
    assert [kind for _, kind, _ in mesh.asked] == [CLOCK]


@pytest.mark.asyncio
@pytest.mark.parametrize("told", [None, b"[]", b"{", b"{}", b'{"link": 1, "gateway": []}', b"[" * 100_000])
async def test_a_peer_that_reports_nonsense(own: Identity, told: bytes | None) -> None:
    mesh = FakeMesh([member(B)])
    mesh.answers[DIAL] = lambda node_id, payload: told
    assert (await measurer(mesh, own).measure(B)).back is None


@pytest.mark.asyncio
async def test_only_addresses_that_the_pool_knows_are_dialed(own: Identity) -> None:
    mesh = FakeMesh([member(B, addresses=tuple(f"nonsense-{n}" for n in range(9)))])
    assert await measurer(mesh, own).dial(C) is None
    found = await measurer(mesh, own).dial(B)
    assert found is not None
    assert [probe.address for probe in found.link] == [f"nonsense-{n}" for n in range(4)]


# --- answering ---


def probes_of(mesh: FakeMesh, own: Identity, interfaces: Sequence[InterfaceAddress] = ()) -> PeerProbes:
    return PeerProbes(mesh, measurer(mesh, own), lambda: interfaces, mesh.clock, mesh.unix_clock)


async def ask(mesh: FakeMesh, kind: str, payload: bytes) -> bytes | None:
    answered: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
    mesh.handlers[kind](B, payload, answered.set_result)
    return await answered


def test_clock_and_bulk_answer_within_bounds(own: Identity) -> None:
    mesh = FakeMesh()
    probes_of(mesh, own)
    clock, bulk = mesh.handlers[CLOCK], mesh.handlers[BULK]
    assert float(clock(b"")) == 1000.0
    assert clock(b"x") is None
    longest = max(BULK_SIZES_BYTES)
    assert bulk((5).to_bytes(4, "big") + bytes(longest)) == bytes(5)
    for payload in (b"", b"abc", (longest + 1).to_bytes(4, "big"), bytes(longest + 5), b"\xff" * 4):
        assert bulk(payload) is None


def test_who_asks_too_much_is_refused_until_time_has_passed(own: Identity) -> None:
    mesh = FakeMesh()
    probes_of(mesh, own)
    clock, bulk = mesh.handlers[CLOCK], mesh.handlers[BULK]
    assert sum(clock(b"") is not None for _ in range(1000)) == peer_probes.CLOCK_BURST
    wanted = max(BULK_SIZES_BYTES).to_bytes(4, "big")
    assert sum(len(bulk(wanted) or b"") for _ in range(1000)) <= peer_probes.BULK_BURST_BYTES
    assert bulk(wanted) is None
    mesh.now_s += 1
    assert clock(b"") is not None
    assert bulk(wanted) is not None


@pytest.mark.asyncio
async def test_it_dials_back_whoever_asks_and_measures_members_only(own: Identity) -> None:
    mesh = FakeMesh([member(B, addresses=("nonsense",)), member(C)])
    probes = probes_of(mesh, own)
    dialed = dials_from_json(read_json(await ask(mesh, DIAL, b"10.9.9.9:22")))
    assert [probe.address for probe in dialed.link] == ["nonsense"]
    measured = pair_from_json(read_json(await ask(mesh, PAIR, C.encode())))
    assert (measured.source, measured.target, measured.linked) == (A, C, True)
    for payload in (b"", b"\xff" * 32, b"x" * 32, b"a" * 31):
        assert await ask(mesh, PAIR, payload) is None
    await probes.stop()


@pytest.mark.asyncio
async def test_work_for_others_is_bounded(own: Identity) -> None:
    mesh = FakeMesh([member(B)])
    probes = probes_of(mesh, own)
    answers = [await ask(mesh, DIAL, b"") for _ in range(int(peer_probes.WORK_BURST) + 3)]
    assert [answer is None for answer in answers] == [False] * int(peer_probes.WORK_BURST) + [True] * 3
    await probes.stop()


@pytest.mark.asyncio
@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"say": 1, "listen": 2}', b'{"say": "x", "listen": "y"}'])
async def test_a_meeting_needs_two_words_and_an_interface(own: Identity, payload: bytes) -> None:
    mesh = FakeMesh()
    probes_of(mesh, own, [InterfaceAddress("eth0", "10.0.0.1", 24)])
    assert await ask(mesh, MULTICAST, payload) is None
    probes_of(mesh, own)
    words = json.dumps({"say": rendezvous.new_word(), "listen": rendezvous.new_word()}).encode()
    assert await ask(mesh, MULTICAST, words) is None


@pytest.mark.asyncio
async def test_whoever_stops_answers_what_is_under_way(own: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = FakeMesh([member(B)])
    probes = probes_of(mesh, own)

    async def never(self: Measurer, target: NodeId) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Measurer, "dial", never)
    asking = asyncio.ensure_future(ask(mesh, DIAL, b""))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await probes.stop()
    assert await asking is None


# --- surveying ---


def test_every_pair_once_and_own_pairs_first() -> None:
    assert pairs_of(A, [B, C], [NodeId("d" * 32)]) == [(A, B), (A, C), (A, "d" * 32), (B, C)]


def test_near_is_on_one_of_our_networks() -> None:
    here = [InterfaceAddress("eth0", "10.0.0.1", 24)]
    assert is_near(member(B, addresses=("10.1.0.2:8082", "10.0.0.2:8082")), here)
    assert not is_near(member(B, addresses=("10.1.0.2:8082", "name:8082")), here)
    assert not is_near(member(B), [])


def surveyor(mesh: FakeMesh, own: Identity) -> Surveyor:
    return Surveyor(mesh, measurer(mesh, own), lambda: ())


@pytest.mark.asyncio
async def test_a_survey_asks_others_for_their_pairs(own: Identity) -> None:
    mesh = FakeMesh([member(B), member(C), member(NodeId("d" * 32), reachable=False)])
    told = PairMeasure(B, C, 0.002)
    mesh.answers[PAIR] = lambda node_id, payload: json.dumps(pair_to_json(told)).encode()
    found = await surveyor(mesh, own).survey()
    assert {(one.source, one.target) for one in found.pairs} == {(A, B), (A, C), (A, "d" * 32), (B, C)}
    assert (found.machines, found.known, found.late) == (4, 4, 0)


@pytest.mark.asyncio
@pytest.mark.parametrize("told", [None, b"x", b"{}", json.dumps(pair_to_json(PairMeasure(C, A, 0.1))).encode()])
async def test_who_reports_nonsense_or_another_pair_is_late(own: Identity, told: bytes | None) -> None:
    mesh = FakeMesh([member(B), member(C)])
    mesh.answers[PAIR] = lambda node_id, payload: told
    found = await surveyor(mesh, own).survey()
    assert {(one.source, one.target) for one in found.pairs} == {(A, B), (A, C)}
    assert found.late == 1


@pytest.mark.asyncio
async def test_of_a_large_pool_only_a_sample_is_asked(own: Identity) -> None:
    mesh = FakeMesh([member(NodeId(f"{number:032x}")) for number in range(40)])
    found = await surveyor(mesh, own).survey()
    assert (found.machines, found.known) == (MACHINES_MAX, 41)
    assert len({node_id for node_id, _, _ in mesh.asked}) == MACHINES_MAX - 1


@pytest.mark.asyncio
async def test_two_who_ask_at_once_share_a_survey_and_time_is_bounded(
    own: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "SURVEY_TIMEOUT_S", 0.01)
    mesh = FakeMesh([member(B)])
    begun = 0

    async def never(self: Measurer, target: NodeId) -> None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(Measurer, "measure", never)
    one = surveyor(mesh, own)
    first, second = await asyncio.gather(one.survey(), one.survey())
    assert first is second
    assert (first.pairs, first.late, begun) == ((), 1, 1)
    await one.stop()


# --- JSON ---


def test_reports_survive_the_way() -> None:
    assert pair_from_json(json.loads(json.dumps(pair_to_json(FULL)))) == FULL
    whole = Survey((FULL,), (Heard(B, True, False),), 2, 3, 1)
    assert survey_from_json(json.loads(json.dumps(survey_to_json(whole)))) == whole


GOOD = pair_to_json(FULL)


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**GOOD, "source": "x"},
        {**GOOD, "target": 1},
        {**GOOD, "skew_s": "1"},
        {**GOOD, "skew_s": True},
        {**GOOD, "skew_s": float("nan")},
        {**GOOD, "there": [1]},
        {**GOOD, "there": {"link": [{}], "gateway": []}},
        {**GOOD, "there": {"link": GOOD["there"]["link"] * 5, "gateway": []}},
        {**GOOD, "there": {"link": [{"address": "a", "reach": "whole", "detail": "x" * 500}], "gateway": []}},
        {**GOOD, "there": {"link": [{"address": "\x1b[2J", "reach": "whole", "detail": ""}], "gateway": []}},
        {**GOOD, "there": {"link": ["x"], "gateway": []}},
    ],
)
def test_hostile_reports_are_refused(value: Any) -> None:
    with pytest.raises(BadReportError):
        pair_from_json(value)


def test_a_survey_of_another_version_is_refused() -> None:
    for value in ({}, {"pairs": [], "heard": [{}]}, {"pairs": 1, "heard": []}):
        with pytest.raises(BadReportError):
            survey_from_json(value)


# --- the rest ---


def test_an_allowance_fills_up_again_and_never_beyond_its_burst() -> None:
    one = Allowance(10, 2, 0)
    assert one.take(10, 0)
    assert not one.take(1, 0)
    assert not one.take(2, 0.9)
    assert one.take(2, 1.0)
    assert not one.take(1, 1.0)
    assert one.take(10, 1000)
    assert not one.take(1, 1000)
    assert not one.take(1, 10)


@pytest.mark.parametrize(
    ("took_s", "round_trip_s", "expected"), [(1.0, 0.5, 2000), (1.0, 0.0, 1000), (1.0, 1.5, 10_000), (0.0, 0.0, 1e9)]
)
def test_a_rate_leaves_out_the_round_trip(took_s: float, round_trip_s: float, expected: float) -> None:
    assert measuring.rate_of(1000, took_s, round_trip_s) == pytest.approx(expected)


def test_words() -> None:
    assert rendezvous.is_word(rendezvous.new_word())
    assert not rendezvous.is_word("x" * 16)
    assert not rendezvous.is_word("a" * 17)
