"""What the doctor says of a network, for each thing that can be wrong with it."""

from __future__ import annotations

import errno
import socket

import pytest

from covey.doctor.finding import Finding
from covey.doctor.network import (
    CLOCK_SKEW_FAIL_S,
    EARLIEST_SANE_UNIX_S,
    MulticastProbe,
    Neighbours,
    PortProbe,
    Seen,
    check_addresses,
    check_alone,
    check_clock,
    check_multicast,
    check_names,
    check_pool_name,
    check_ports,
    silent_peer,
)
from covey.doctor.pair import Heard
from covey.doctor.probes import probe_ports
from covey_mesh.core.addresses import InterfaceAddress
from covey_mesh.core.names import NodeId
from covey_mesh.io.path_probe import PathProbe, Reach

OWN, PEER = NodeId("1" * 32), NodeId("2" * 32)
NOW = EARLIEST_SANE_UNIX_S + 1e7


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def at(interface: str, address: str, carrier: bool = True) -> InterfaceAddress:
    return InterfaceAddress(interface, address, 24, 2, carrier)


LO, LAN = at("lo", "127.0.0.1"), at("eth0", "192.168.1.5")


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], ["fail"]),
        ([LO], ["warn"]),
        ([LO, at("eth0", "169.254.1.1")], ["warn"]),
        ([LO, at("tailscale0", "100.64.0.1")], ["warn"]),
        ([LO, at("docker0", "172.17.0.1")], ["warn"]),
        ([LO, LAN], ["ok"]),
        ([LO, LAN, at("docker0", "172.17.0.1"), at("wg0", "10.8.0.1")], ["ok", "ok"]),
        ([LO, at("eth0", "192.168.1.5", carrier=False)], ["fail"]),
    ],
)
def test_addresses(found: list[InterfaceAddress], expected: list[str]) -> None:
    assert levels(check_addresses(found)) == expected


def test_addresses_left_out_are_named() -> None:
    findings = check_addresses([LAN, at("docker0", "172.17.0.1")])
    assert "192.168.1.5" in findings[0].detail
    assert "172.17.0.1 (docker0)" in findings[1].detail


@pytest.mark.parametrize(
    ("probe", "expected", "said"),
    [
        (MulticastProbe("eth0", "IPv4", "Network is unreachable"), ["fail"], "ip link set eth0 multicast on"),
        (MulticastProbe("eth0", "IPv4", heard_own=False), ["ok", "fail"], "ufw allow 5353/udp"),
        (MulticastProbe("eth0", "IPv4", heard_own=True), ["ok", "warn"], "--peer"),
        (MulticastProbe("eth0", "IPv4", "", True, ("10.0.0.2",)), ["ok", "ok"], ""),
        (MulticastProbe("eth0", "IPv4", "", False, ("10.0.0.2",)), ["ok", "ok"], ""),
    ],
)
def test_multicast_out_and_in_apart(probe: MulticastProbe, expected: list[str], said: str) -> None:
    findings = check_multicast([probe])
    assert levels(findings) == expected
    assert said in findings[-1].fix


HEARD, UNHEARD = Heard(PEER, here=True, there=True), Heard(PEER, here=False, there=False)
ALONE = MulticastProbe("eth0", "IPv4", heard_own=True)


@pytest.mark.parametrize(
    ("probe", "neighbours", "expected", "said"),
    [
        (ALONE, Neighbours((HEARD, UNHEARD)), ["ok", "ok"], "heard 1 machines"),
        (ALONE, Neighbours((UNHEARD,)), ["warn", "warn"], "IGMP snooping"),
        (ALONE, Neighbours((Heard(PEER, here=True, there=False),)), ["warn", "ok"], "heard 1"),
        (ALONE, Neighbours((Heard(PEER, here=False, there=True),)), ["ok", "warn"], "client isolation"),
        (MulticastProbe("eth0", "IPv4"), Neighbours((Heard(PEER, False, True),)), ["ok", "fail"], "ufw allow 5353/udp"),
        (ALONE, Neighbours(own_link="10.0.0.1:8082"), ["ok", "warn"], "start one of them with `--peer 10.0.0.1:8082`"),
        (ALONE, Neighbours(elsewhere=("10.9.0.1:8082",)), ["ok", "warn"], "start this one with `--peer 10.9.0.1:8082`"),
        (ALONE, Neighbours(routed=(("lab", "10.9.0.1:8082"),)), ["ok", "ok"], "lab (`--peer 10.9.0.1:8082`)"),
        (ALONE, Neighbours(pool_known=True), ["ok", "ok"], "nothing but this machine"),
    ],
)
def test_multicast_as_tested_with_neighbours(
    probe: MulticastProbe, neighbours: Neighbours, expected: list[str], said: str
) -> None:
    findings = check_multicast([probe], neighbours)
    assert levels(findings) == expected
    assert [finding.title for finding in findings] == [f"multicast {way} on eth0 (IPv4)" for way in ("out", "in")]
    assert said in f"{findings[-1].detail} -> {findings[-1].fix}"


def test_what_holds_for_both_families_is_said_once() -> None:
    both = [MulticastProbe("eth0", family, heard_own=True) for family in ("IPv4", "IPv6")]
    other = MulticastProbe("wlan0", "IPv4", heard_own=True)
    titles = [finding.title for finding in check_multicast([*both, other])]
    assert titles == [
        f"multicast {way} on {where}" for where in ("eth0 (IPv4, IPv6)", "wlan0 (IPv4)") for way in ("out", "in")
    ]


def test_a_machine_that_knows_no_other_is_told_what_to_put_in_peer() -> None:
    finding = check_alone(Neighbours(own_link="10.0.0.1:8082"))
    assert (finding.level, finding.title) == ("warn", "other machines")
    assert "--peer 10.0.0.1:8082" in finding.fix


def test_a_configured_peer_that_is_silent() -> None:
    finding = silent_peer(PathProbe("10.9.0.1:8082", Reach.SILENT, "no answer"))
    assert (finding.level, finding.title) == ("warn", "peer 10.9.0.1:8082")


def test_no_interface_to_probe() -> None:
    assert levels(check_multicast([])) == ["warn"]


@pytest.mark.parametrize(
    ("error", "agent_runs", "level", "said"),
    [
        (0, False, "ok", ""),
        (errno.EADDRINUSE, True, "ok", ""),
        (errno.EADDRINUSE, False, "fail", "sport = :8080"),
        (errno.EADDRNOTAVAIL, False, "fail", "0.0.0.0"),
        (errno.EACCES, False, "fail", "above 1023"),
        (errno.EIO, False, "fail", "covey.toml"),
    ],
)
def test_ports(error: int, agent_runs: bool, level: str, said: str) -> None:
    (finding,) = check_ports([PortProbe("http", "10.0.0.1:8080", error)], agent_runs)
    assert finding.level == level
    assert said in finding.fix


def test_a_taken_port_is_seen_and_a_free_one_let_go() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        assert probe_ports({"link": address})[0].error == errno.EADDRINUSE
    assert [probe.error for probe in probe_ports({"http": address, "link": "[::1]:0"})] == [0, 0]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        ([], ["ok"]),
        ([Seen("desk-11111111", OWN, "desk", ("10.0.0.1",)), Seen("b", PEER, "lab", ("10.0.0.2",))], ["ok"]),
        ([Seen("desk-11111111-2", OWN, "desk", ("10.0.0.9",))], ["fail"]),
        ([Seen("b", PEER, "desk", ("10.0.0.2",))], ["warn"]),
        ([Seen("a", OWN, "desk", ("10.0.0.9",)), Seen("b", PEER, "desk", ("10.0.0.2",))], ["fail", "warn"]),
    ],
)
def test_one_id_twice_and_one_name_twice(seen: list[Seen], expected: list[str]) -> None:
    assert levels(check_names(OWN, "desk", ["10.0.0.1"], seen)) == expected


def test_names_of_a_machine_without_a_pool() -> None:
    assert levels(check_names(None, "desk", [], [Seen("b", PEER, "desk", ("10.0.0.2",))])) == ["ok"]


@pytest.mark.parametrize(
    ("resolved", "gateways", "level"),
    [
        ([], [], "warn"),
        (["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], "ok"),
        (["10.0.0.1"], [], "ok"),
        (["10.0.0.77"], ["10.0.0.1"], "warn"),
    ],
)
def test_pool_name(resolved: list[str], gateways: list[str], level: str) -> None:
    assert check_pool_name("covey.local", resolved, gateways).level == level


@pytest.mark.parametrize(
    ("now", "synchronized", "skews", "not_before", "expected"),
    [
        (NOW, True, {}, 0.0, ["ok"]),
        (NOW, None, {"lab": 1.0}, 0.0, ["ok"]),
        (NOW, False, {}, 0.0, ["warn"]),
        (NOW, True, {"lab": -6.0}, 0.0, ["warn"]),
        (NOW, True, {"lab": 60.0, "attic": 60.4}, 0.0, ["warn"]),
        (NOW, True, {"lab": 60.0, "attic": 60.4, "desk": 0.1}, 0.0, ["warn", "warn"]),
        (NOW, True, {"lab": CLOCK_SKEW_FAIL_S + 1, "attic": 9.0}, 0.0, ["warn", "fail"]),
        (1000.0, True, {}, 0.0, ["fail"]),
        (NOW, True, {}, NOW + 60, ["fail"]),
    ],
)
def test_clock(
    now: float, synchronized: bool | None, skews: dict[str, float], not_before: float, expected: list[str]
) -> None:
    assert levels(check_clock(now, synchronized, skews, not_before)) == expected


@pytest.mark.parametrize(
    ("skews", "detail", "where"),
    [
        ({"lab": 60.0}, "lab's differs from this machine's by +60.0 s", "on whichever of the two"),
        ({"lab": 60.0, "attic": 0.0}, "lab's differs from this machine's by +60.0 s", "on lab: "),
        ({"lab": 60.0, "attic": 60.4}, "this machine's differs from all others by -60.2 s", "here: "),
    ],
)
def test_whose_clock_is_wrong(skews: dict[str, float], detail: str, where: str) -> None:
    (finding,) = check_clock(NOW, True, skews)
    assert finding.detail == detail
    assert finding.fix.startswith(where)


def test_a_finding_without_a_fix_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="without a fix"):
        Finding("warn", "x", "y")
    assert Finding("ok", "x", "y").as_json() == {"level": "ok", "title": "x", "detail": "y", "fix": ""}
