"""The small decisions behind membership: liveness of a link, dialing, timers, which of two links stays, census."""

from __future__ import annotations

import pytest

from covey_mesh.core.census import DEPUTIES, FULL_MESH_MAX, Census
from covey_mesh.core.dialing import ADDRESSES_MAX, PROVEN, Target, backoff_cap_s, host_of, is_address
from covey_mesh.core.limits import PEERS_MAX
from covey_mesh.core.liveness import Finding, LinkLiveness
from covey_mesh.core.names import NodeId
from covey_mesh.core.peers import LinkState, PeerTable, replaces
from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timers import Timers
from covey_mesh.core.timing import LAN

A, B = NodeId("a" * 32), NodeId("b" * 32)
LOW, HIGH = A, B


def test_a_quiet_link_is_asked_then_doubted_then_silent() -> None:
    link = LinkLiveness(0.0, LAN)
    assert link.check(0.99, 1.0) is Finding.FINE
    assert link.due_s(0.0, 1.0) == 1.0
    assert link.check(1.0, 1.0) is Finding.ASK
    link.ask(1.0)
    assert link.fresh(1.49)
    assert not link.fresh(1.5)
    assert link.check(1.25, 1.0) is Finding.ASK, "asked again: the first question may be stuck behind others"
    assert link.check(2.24, 1.0) is Finding.ASK
    assert link.check(2.25, 1.0) is Finding.SILENT


def test_an_answer_gives_the_round_trip_and_settles_all_questions_before_it() -> None:
    link = LinkLiveness(0.0, LAN)
    first, second = link.ask(1.0), link.ask(1.25)
    link.answered(1.3, first)
    assert not link.fresh(1.25 + LAN.fresh_window_s), "the second question is still open"
    link.answered(1.35, second)
    assert link.round_trip_s == pytest.approx(0.1)
    assert link.fresh(99.0)
    asked = [link.ask(100.0 + n / 4) for n in range(3)]
    link.answered(100.6, asked[2])
    assert link.fresh(199.0), "what was lost before the answered question does not matter"


@pytest.mark.parametrize("echo", [0, 2, 99, -1])
def test_an_echo_of_nothing_asked_proves_nothing(echo: int) -> None:
    link = LinkLiveness(0.0, LAN)
    link.ask(1.0)
    link.answered(1.1, echo)
    assert not link.fresh(1.6)


def test_other_bytes_keep_a_link_from_being_silent_until_it_is_plainly_deaf() -> None:
    link = LinkLiveness(0.0, LAN)
    link.ask(1.0)
    for tick in range(1, 70):
        now_s = 1.0 + tick * 0.1
        link.heard_at_s = now_s
        assert (link.check(now_s, 1.0) is Finding.SILENT) is (now_s >= 1.0 + LAN.deaf_deadline_s)


def test_a_stall_of_our_own_is_forgiven() -> None:
    link = LinkLiveness(0.0, LAN)
    link.ask(1.0)
    link.forgive(60.0)
    assert link.check(60.1, 1.0) is Finding.FINE
    assert link.fresh(60.1)
    unasked = LinkLiveness(0.0, LAN)
    unasked.forgive(60.0)
    assert unasked.check(60.1, 1.0) is Finding.FINE


def test_a_check_is_due_when_a_link_stops_being_fresh() -> None:
    link = LinkLiveness(0.0, LAN)
    link.ask(1.0)
    link.ask(1.3)
    assert link.due_s(1.3, 1.0) == 1.0 + LAN.fresh_window_s
    assert link.due_s(1.5, 1.0) == 1.3 + LAN.link_heartbeat_s


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("10.0.0.1:7420", True),
        ("[fe80::1]:7420", True),
        ("office-pc.local:1", True),
        ("10.0.0.1", False),
        (":7420", False),
        ("[]:7420", False),
        ("h:0", False),
        ("h:65536", False),
        ("h:7x", False),
        ("h:٣", False),
        ("a\nb:7420", False),
        ("h" * 300 + ":7420", False),
        ("", False),
    ],
)
def test_addresses(text: str, good: bool) -> None:
    assert is_address(text) is good


@pytest.mark.parametrize(
    ("address", "host"),
    [("10.0.0.1:7420", "10.0.0.1"), ("[fe80::1]:7420", "fe80::1"), ("fe80::1", "fe80::1"), ("pc", "pc")],
)
def test_host_of(address: str, host: str) -> None:
    assert host_of(address) == host


def test_addresses_are_bounded_and_proven_ones_survive_a_flood_of_hints() -> None:
    target = Target()
    target.learn(["10.0.0.1:1"], PROVEN)
    target.learn([f"10.9.9.{n}:1" for n in range(99)])
    assert len(target.addresses) == ADDRESSES_MAX
    assert next(iter(target.addresses)) == "10.0.0.1:1"
    target.learn(["10.0.0.2:1"], PROVEN)
    assert list(target.addresses)[:2] == ["10.0.0.1:1", "10.0.0.2:1"]
    assert len(target.addresses) == ADDRESSES_MAX


def test_a_failed_dial_moves_on_to_the_next_address_and_backs_off() -> None:
    target = Target()
    target.learn(["a:1", "b:1"])
    tried = []
    now_s = 0.0
    for _ in range(4):
        tried.append(target.start(now_s))
        target.failed(now_s, LinkLoss.SILENT, 1.0, 0.0, LAN)
        assert target.next_dial_s > now_s
        now_s = target.next_dial_s
    assert tried == ["a:1", "b:1", "a:1", "b:1"]
    assert target.failures == 3, "the backoff grows once a round"
    target.prefer("b:1")
    assert target.start(now_s) == "b:1"
    target.failed(now_s, LinkLoss.SILENT, 1.0, 0.0, LAN)
    target.succeeded()
    assert target.start(now_s) == "b:1"


@pytest.mark.parametrize(("addresses", "rare"), [(["a:1"], True), (["a:1", "b:1"], False)])
def test_a_stranger_at_the_only_address_makes_dials_rare(addresses: list[str], rare: bool) -> None:
    target = Target()
    target.learn(addresses)
    for _ in range(40):
        target.start(0.0)
        target.failed(0.0, LinkLoss.UNTRUSTED, 1.0, 0.0, LAN)
    assert target.next_dial_s == (LAN.dial_backoff_gone_s if rare else 1.0)


def test_new_interest_makes_the_next_dial_due_but_not_faster_than_ten_a_second() -> None:
    target = Target()
    target.learn(["a:1"])
    for _ in range(9):
        target.start(100.0)
        target.failed(100.0, LinkLoss.SILENT, 30.0, 0.0, LAN)
    target.renew(100.05)
    assert (target.next_dial_s, target.failures) == (100.1, 1)
    target.renew(105.0)
    assert target.next_dial_s == 100.1, "it was due already"


@pytest.mark.parametrize(
    ("seen_ago_s", "pinned", "cap_s"),
    [(1.0, False, 1.0), (599.0, True, 1.0), (601.0, False, 30.0), (601.0, True, 2.0), (float("inf"), False, 30.0)],
)
def test_backoff_cap(seen_ago_s: float, pinned: bool, cap_s: float) -> None:
    assert backoff_cap_s(1e6, 1e6 - seen_ago_s, pinned, LAN) == cap_s


def test_timers_hand_out_each_key_once_and_keep_the_earliest() -> None:
    timers = Timers()
    timers.at("a", 5.0)
    timers.at("a", 3.0)
    timers.at("a", 9.0)
    timers.at("b", 4.0)
    timers.at("never", float("inf"))
    assert timers.next_s == 3.0
    assert timers.take(2.9) == []
    assert timers.take(3.0) == ["a"]
    assert timers.next_s == 4.0
    assert timers.take(4.0) == ["b"]
    assert timers.next_s == float("inf"), "what was planned later than needed wakes nobody"


def link(dialed: bool, up_at_s: float = 0.0, incarnation: int = 1) -> LinkState:
    return LinkState(1, incarnation, dialed, "h:1", up_at_s, LinkLiveness(up_at_s, LAN))


@pytest.mark.parametrize(
    ("self_id", "peer", "held", "new", "now_s", "replaced"),
    [
        # The same side dialed again: it knows that the first is dead.
        (LOW, HIGH, link(False), link(False), 0.1, True),
        (LOW, HIGH, link(True), link(True), 0.1, True),
        # Both dialed at once: the lower id's dial stays, seen from either side.
        (LOW, HIGH, link(True), link(False), 0.1, False),
        (LOW, HIGH, link(False), link(True), 0.1, True),
        (HIGH, LOW, link(True), link(False), 0.1, True),
        (HIGH, LOW, link(False), link(True), 0.1, False),
        # Much later: the other side would not dial if it still had a link.
        (LOW, HIGH, link(True), link(False), 2.1, True),
        # Another process.
        (LOW, HIGH, link(True), link(False, incarnation=2), 0.1, True),
    ],
)
def test_which_of_two_links_stays(
    self_id: NodeId, peer: NodeId, held: LinkState, new: LinkState, now_s: float, replaced: bool
) -> None:
    assert replaces(self_id, peer, held, new, now_s, LAN) is replaced


def test_a_link_in_doubt_gives_way() -> None:
    held = link(True)
    held.liveness.ask(0.5)
    assert replaces(LOW, HIGH, held, link(False), 1.5, LAN)


def number(n: int) -> NodeId:
    return NodeId(f"{n:032x}")


def test_the_table_is_bounded_and_forgets_the_longest_unseen_first() -> None:
    table = PeerTable(A, LAN)
    for n in range(PEERS_MAX):
        record = table.meet(number(n), float(n))
        assert record is not None
        record.seen_at_s = float(n)
    assert table.meet(A, 0.0) is None, "oneself is no peer"
    assert table.meet(number(99999), 1.0) is not None
    assert len(table) == PEERS_MAX
    assert table.get(number(0)) is None


def test_a_table_full_of_links_takes_nobody_in() -> None:
    table = PeerTable(A, LAN)
    for n in range(PEERS_MAX):
        record = table.meet(number(n), 0.0)
        assert record is not None
        record.link = link(True)
    assert table.meet(number(99999), 1.0) is None


@pytest.mark.parametrize(
    ("pinned", "in_use", "kept"), [(False, False, False), (True, False, True), (False, True, True)]
)
def test_what_a_person_named_or_somebody_uses_is_not_forgotten(pinned: bool, in_use: bool, kept: bool) -> None:
    table = PeerTable(number(1), LAN)
    record = table.meet(number(2), 0.0)
    assert record is not None
    record.target.pinned, record.in_use = pinned, in_use
    table.forget_old(LAN.remember_unproven_s)
    assert len(table) == 1
    table.forget_old(LAN.remember_unproven_s + 1.0)
    assert len(table) == kept


def census_of(machines: int) -> tuple[Census, PeerTable]:
    table = PeerTable(number(500), LAN)
    for n in range(machines - 1):
        table.meet(number(n if n < 500 else n + 1), 0.0)
    census = Census(number(500), table)
    census.stale()
    census.take()
    return census, table


def test_small_pools_link_every_pair() -> None:
    census, table = census_of(FULL_MESH_MAX)
    assert census.is_deputy
    assert all(census.wants_link(record, None, 99) for record in table)


def test_large_pools_link_to_the_leader_the_deputies_and_what_is_in_use() -> None:
    census, table = census_of(1000)
    assert not census.is_deputy
    assert census.deputies == {number(n) for n in range(DEPUTIES)}
    leader, used = number(700), table.get(number(800))
    assert used is not None
    used.in_use = True
    wanted = {record.node_id for record in table if census.wants_link(record, leader, 99)}
    assert wanted == census.deputies | {leader, number(800)}


def test_a_newcomer_to_a_large_pool_takes_the_first_links_that_it_can_get() -> None:
    census, table = census_of(1000)
    other = table.get(number(700))
    assert other is not None
    assert census.wants_link(other, None, DEPUTIES - 1)
    assert not census.wants_link(other, None, DEPUTIES)


def test_a_deputy_of_a_large_pool_has_links_to_everybody() -> None:
    table = PeerTable(number(0), LAN)
    for n in range(1, 1000):
        table.meet(number(n), 0.0)
    census = Census(number(0), table)
    census.stale()
    census.take()
    assert census.is_deputy
    assert all(census.wants_link(record, number(700), 999) for record in table)
