"""Discovery on a LAN of network namespaces with real mDNS: who finds whom, through changes and attacks."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.lan.avahi import Avahi
from tests.lan.conftest import MakeLab
from tests.lan.lab import Host
from tests.lan.program import Event, Program

from covey_mesh.core.hints import HINTS_BURST, HINTS_PER_S

pytestmark = pytest.mark.lan

POOL = "a" * 32
OTHER_POOL = "b" * 32
FALSE_ADDRESS = "10.77.0.66"


def node(number: int) -> str:
    return f"{number}" * 32


def discover(host: Host, number: int, pool: str = POOL) -> Program:
    return Program(host, "discover", "--pool", pool, "--node", node(number), "--name", f"desk-{number}")


def hint_of(number: int, address: str | None = None) -> Callable[[Event], bool]:
    def wanted(event: Event) -> bool:
        right = event["event"] == "hint" and event["claimed"] == node(number)
        # Behind the best address an old one may stand for a second, until its goodbye is obeyed.
        return right and (address is None or event["addresses"][0] == f"{address}:4711")

    return wanted


def saw(program: Program, number: int, address: str, timeout_s: float = 10.0, start: int = 0) -> Event:
    return program.wait(f"node {number} at {address}", hint_of(number, address), timeout_s, start)


def hints(program: Program) -> list[Event]:
    return [event for event in program.events if event["event"] == "hint"]


def test_three_hosts_find_each_other_and_only_each_other(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    programs = [discover(host, number) for number, host in enumerate(lab.hosts, 1)]
    for mine, program in enumerate(programs, 1):
        for other, host in enumerate(lab.hosts, 1):
            if mine != other:
                assert host.address is not None
                saw(program, other, host.address)
    for program in programs:
        assert len(hints(program)) == 2, "one hint for each other machine, none for itself, none twice"


def test_a_late_joiner_finds_and_is_found(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    first = discover(lab.hosts[0], 1)
    while first.ask(command="status")["instance"] is None:
        time.sleep(0.05)
    late = discover(lab.hosts[1], 2)
    started = late.wait("its start", lambda e: e["event"] == "started")
    found = saw(late, 1, "10.77.0.1")
    seen = saw(first, 2, "10.77.0.2")
    assert found["at_s"] - started["at_s"] < 1.0, "known announcements are asked for, not waited for"
    assert seen["at_s"] - started["at_s"] < 3.0


def test_an_address_that_comes_later_is_announced(make_lab: MakeLab) -> None:
    lab = make_lab(2, addresses=False)
    lab.hosts[0].add_address("10.77.0.1")
    first, second = discover(lab.hosts[0], 1), discover(lab.hosts[1], 2)
    second.wait("its start", lambda e: e["event"] == "started")
    before = second.ask(command="status")["addresses"]
    assert not any(address.startswith("10.") for address in before), "IPv6 link-local or loopback, or nothing yet"
    lab.hosts[1].add_address("10.77.0.2")
    saw(first, 2, "10.77.0.2")
    saw(second, 1, "10.77.0.1")


def test_a_changed_address_replaces_the_old_one(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    first, second = discover(lab.hosts[0], 1), discover(lab.hosts[1], 2)
    saw(first, 2, "10.77.0.2")
    lab.hosts[1].change_address("10.77.0.22")
    saw(first, 2, "10.77.0.22")
    assert second.ask(command="status")["problem"] is None


def test_a_cable_put_in_later_is_noticed_without_a_new_address(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    lab.hosts[1].unplug()
    first, second = discover(lab.hosts[0], 1), discover(lab.hosts[1], 2)
    for program in (first, second):
        # Every announcement and every early question of both is over before the cable is in.
        while program.ask(command="status")["instance"] is None:
            time.sleep(0.05)
    assert hints(first) == []
    assert hints(second) == []
    lab.hosts[1].plug()
    saw(first, 2, "10.77.0.2", timeout_s=5.0)
    saw(second, 1, "10.77.0.1", timeout_s=5.0)


def test_with_multicast_in_blocked_a_machine_is_still_seen(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    lab.hosts[0].block_inbound(5353)
    deaf, other = discover(lab.hosts[0], 1), discover(lab.hosts[1], 2)
    saw(other, 1, "10.77.0.1")
    assert hints(deaf) == [], "one-way multicast: the other side dials, and peers are exchanged on that link"
    lab.hosts[0].unblock()
    saw(deaf, 2, "10.77.0.2", timeout_s=15.0)


def test_two_agents_on_one_host_find_each_other(make_lab: MakeLab) -> None:
    lab = make_lab(1)
    first, second = discover(lab.hosts[0], 1), discover(lab.hosts[0], 2)
    saw(first, 2, "10.77.0.1")
    saw(second, 1, "10.77.0.1")


def test_avahi_sees_every_machine_with_its_capacity(make_lab: MakeLab, needs_avahi: None, tmp_path: Path) -> None:
    lab = make_lab(3)
    programs = [discover(host, number) for number, host in enumerate(lab.hosts, 1)]
    saw(programs[2], 1, "10.77.0.1")
    saw(programs[1], 3, "10.77.0.3")
    avahi = Avahi(lab.hosts[0], tmp_path)
    found = {one.address: one for one in avahi.browse()}
    assert set(found) == {"10.77.0.1", "10.77.0.2", "10.77.0.3"}
    assert found["10.77.0.2"].instance == "desk-2-22222222"
    assert found["10.77.0.2"].txt["total_gib"] == "24"
    assert found["10.77.0.2"].txt["free_gib"] == "24"
    programs[1].say(command="free", gib=7)
    deadline = time.monotonic() + 15
    while {one.address: one for one in avahi.browse()}["10.77.0.2"].txt["free_gib"] != "6":
        assert time.monotonic() < deadline, "24 GiB with 7 free is announced as a quarter"
        time.sleep(0.5)
    assert [2, 6] in [[int(c[0]), free] for _, c, free in programs[0].ask(command="status")["known"]]
    assert len(hints(programs[0])) == 2, "a change of capacity is no reason to dial again"


def test_a_goodbye_ends_the_hint_and_a_return_gives_a_new_one(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    first, second = discover(lab.hosts[0], 1), discover(lab.hosts[1], 2)
    saw(first, 2, "10.77.0.2")
    second.stop()
    deadline = time.monotonic() + 3
    while first.ask(command="status")["known"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    mark = first.mark()
    discover(lab.hosts[1], 2)
    saw(first, 2, "10.77.0.2", start=mark)


def test_another_pools_announcement_gives_no_hint(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    ours, theirs, third = discover(lab.hosts[0], 1), discover(lab.hosts[1], 2, OTHER_POOL), discover(lab.hosts[2], 3)
    saw(ours, 3, "10.77.0.3")
    saw(third, 1, "10.77.0.1")
    deadline = time.monotonic() + 5
    while not ours.ask(command="status")["counts"].get("another pool"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {event["claimed"] for event in hints(ours)} == {node(3)}
    assert hints(theirs) == []


def test_a_stolen_id_under_a_false_address_is_one_more_hint_and_takes_nothing_away(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    first, _ = discover(lab.hosts[0], 1), discover(lab.hosts[1], 2)
    saw(first, 2, "10.77.0.2")
    rogue = Program(lab.hosts[2], "rogue")
    rogue.ask(command="announce", instance="evil", pool=POOL, node=node(2), address=FALSE_ADDRESS)
    saw(first, 2, FALSE_ADDRESS)
    known = first.ask(command="status")["known"]
    assert sorted(addresses[0] for addresses, _, _ in known) == ["10.77.0.2:4711", f"{FALSE_ADDRESS}:4711"]


def test_a_stolen_name_cannot_silence_its_owner(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    first, second = discover(lab.hosts[0], 1), discover(lab.hosts[1], 2)
    saw(first, 2, "10.77.0.2")
    rogue = Program(lab.hosts[2], "rogue")
    stolen = {"instance": "desk-2-22222222", "pool": POOL, "node": node(2), "address": FALSE_ADDRESS}
    rogue.ask(command="announce", **stolen)
    saw(first, 2, FALSE_ADDRESS)
    mark = first.mark()
    rogue.ask(command="announce", **stolen, ttl=0)
    # The owner speaks again by itself when its address changes, and is believed as much as before.
    lab.hosts[1].change_address("10.77.0.22")
    saw(first, 2, "10.77.0.22", start=mark)
    assert second.ask(command="status")["problem"] is None


def test_floods_and_garbage_give_a_bounded_number_of_hints(make_lab: MakeLab) -> None:
    lab = make_lab(3)
    first = discover(lab.hosts[0], 1)
    while first.ask(command="status")["instance"] is None:
        time.sleep(0.05)
    rogue = Program(lab.hosts[2], "rogue")
    rogue.wait("its start", lambda e: e["event"] == "started")
    began = time.monotonic()
    rogue.ask(command="garbage", count=1500, pool=POOL)
    rogue.ask(command="flood", count=3000, pool=POOL, address=FALSE_ADDRESS)
    first.ask(command="status")
    late = discover(lab.hosts[1], 2)
    saw(first, 2, "10.77.0.2", timeout_s=15.0)
    elapsed_s = time.monotonic() - began
    assert len(hints(first)) <= HINTS_BURST + HINTS_PER_S * elapsed_s + 1
    saw(late, 1, "10.77.0.1", timeout_s=15.0)
    status = first.ask(command="status")
    assert len(status["known"]) <= 1024
    assert status["problem"] is None


def test_malformed_records_are_counted_and_give_no_hint(make_lab: MakeLab) -> None:
    lab = make_lab(2)
    first = discover(lab.hosts[0], 1)
    first.wait("its start", lambda e: e["event"] == "started")
    rogue = Program(lab.hosts[1], "rogue")
    base = {"command": "announce", "pool": POOL, "node": node(9)}
    good = {"txtvers": "1", "pool": POOL, "id": node(9), "run": "1", "link": "1", "http": "0", "grpc": "0"}
    good |= {"total_gib": "1", "free_gib": "1"}
    rogue.ask(**base, instance="one", txt={**good, "id": "../../etc/passwd"})
    rogue.ask(**base, instance="two", txt={**good, "link": "99999"})
    rogue.ask(**base, instance="three", text_hex="ff" * 300)
    rogue.ask(**base, instance="four", txt={**good}, address="0.0.0.0")
    deadline = time.monotonic() + 5
    while (
        sum(first.ask(command="status")["counts"].get(kind, 0) for kind in ("malformed", "another record format")) < 4
    ):
        assert time.monotonic() < deadline, first.ask(command="status")
        time.sleep(0.1)
    assert hints(first) == []
