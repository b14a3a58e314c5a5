"""What the doctor says of a survey of links: one cause, one finding, with its fix."""

from __future__ import annotations

from dataclasses import replace

import pytest

from covey.doctor.blame import Blamed, Pair, blame
from covey.doctor.finding import Finding
from covey.doctor.links import Machines, check_links, skews_s, swallowed, why_unreachable
from covey.doctor.pair import Dials, PairMeasure, Survey
from covey_mesh.core.names import NodeId
from covey_mesh.io.path_probe import PathProbe, Reach

A, B, C = (NodeId(letter * 32) for letter in "abc")
MACHINES = Machines(A, {A: "anna", B: "ben", C: "cleo"})
ADDRESSES = {A: "10.0.0.1", B: "10.0.0.2", C: "10.0.0.3"}


def dials(target: NodeId, reach: Reach = Reach.WHOLE, gateway: Reach = Reach.WHOLE, data: Reach = Reach.WHOLE) -> Dials:
    host = ADDRESSES[target]
    tried = {8082: reach, 8080: gateway, 8084: data}
    return Dials(*((PathProbe(f"{host}:{port}", found, "why"),) for port, found in tried.items()))


def pair(source: NodeId, target: NodeId) -> PairMeasure:
    return PairMeasure(source, target, 0.001, 0.0, 1e8, 1e8, dials(target), dials(source))


def survey(*changed: PairMeasure, **more: int) -> Survey:
    """A healthy pool of three, with some pairs changed."""
    pairs = {(one.source, one.target): one for one in (pair(A, B), pair(A, C), pair(B, C), *changed)}
    return Survey(tuple(pairs.values()), (), **{"machines": 3, "known": 3, **more})


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.title) for finding in findings]


def test_a_healthy_pool_is_one_line_of_figures() -> None:
    (finding,) = check_links(survey(), MACHINES)
    assert (finding.level, finding.title) == ("ok", "links")
    assert "3 pairs, round trips 1.0 to 1.0 ms, 800 Mbit/s or more" in finding.detail


def test_no_pool_no_findings() -> None:
    assert check_links(Survey(), MACHINES) == []


BLOCKED, NO_CLIENTS = dials(A, Reach.SILENT, data=Reach.SILENT), dials(A, gateway=Reach.REFUSED)
NO_DATA = dials(A, data=Reach.SILENT)


@pytest.mark.parametrize(
    ("changed", "expected", "words"),
    [
        ((replace(pair(A, B), back=BLOCKED), replace(pair(A, C), back=BLOCKED)),
         ("fail", "firewall (link)"), ("this machine cannot be reached at 10.0.0.1:8082", "here: allow TCP port 8082")),
        ((replace(pair(A, B), back=NO_CLIENTS), replace(pair(A, C), back=NO_CLIENTS)),
         ("warn", "firewall (http)"), ("10.0.0.1:8080", "see that `http` in covey.toml listens")),
        ((replace(pair(A, B), back=NO_DATA), replace(pair(A, C), back=NO_DATA)),
         ("warn", "firewall (data_port)"), ("10.0.0.1:8084", "allow TCP port 8084", "travel over `link`, which takes")),
        ((replace(pair(A, C), back=NO_DATA),),
         ("warn", "one-way"), ("allow TCP port 8084 from cleo", "travel over `link`, which takes more")),
        ((replace(pair(A, B), there=dials(B, Reach.SILENT)), replace(pair(B, C), back=dials(B, Reach.SILENT))),
         ("warn", "firewall (link)"), ("ben cannot be reached", "on ben: allow TCP port 8082", "this machine, cleo")),
        ((replace(pair(A, C), back=BLOCKED),),
         ("warn", "one-way"), ("cleo cannot open a connection to this machine", "here: allow TCP port 8082 from cleo")),
        ((replace(pair(B, C), there=dials(C, Reach.REFUSED)),),
         ("warn", "one-way"), ("ben cannot open a connection to cleo", "on cleo: ")),
        ((replace(pair(A, B), there=dials(B, Reach.SMALL)), replace(pair(B, C), back=dials(B, Reach.SMALL))),
         ("fail", "path MTU"), ("between ben and all others", "on ben: ", "mtu 1280")),
        ((replace(pair(A, B), back=dials(A, Reach.SMALL)),),
         ("fail", "path MTU"), ("between this machine and ben", "on both: ")),
        ((replace(pair(A, B), round_trip_s=0.2), replace(pair(A, C), round_trip_s=0.1)),
         ("warn", "latency"), ("this machine and all others", "200 ms", "100 ms", "here: prefer a cable")),
        ((replace(pair(B, C), round_trip_s=0.2),),
         ("warn", "latency"), ("between ben and cleo", "200 ms")),
        ((replace(pair(A, B), in_bytes_per_s=1e5),),
         ("warn", "bandwidth"), ("this machine and ben", "only 0.8 Mbit/s", "10 Mbit/s")),
        (tuple(replace(one, out_bytes_per_s=1e5) for one in survey().pairs),
         ("warn", "bandwidth"), ("between all machines", "on the network that they share")),
    ],
)  # fmt: skip
def test_one_cause_one_finding(
    changed: tuple[PairMeasure, ...], expected: tuple[str, str], words: tuple[str, ...]
) -> None:
    findings = check_links(survey(*changed), MACHINES)
    assert said(findings) == [expected]
    text = f"{findings[0].detail} -> {findings[0].fix}"
    assert [word for word in words if word not in text] == []


def test_what_cannot_be_reached_is_not_said_twice_where_the_interface_is_wrong() -> None:
    changed = replace(pair(A, B), back=BLOCKED), replace(pair(A, C), back=BLOCKED)
    assert said(check_links(survey(*changed), replace(MACHINES, excused=True))) == [("ok", "links")]


def test_two_machines_do_not_tell_who_is_slow() -> None:
    (finding,) = check_links(Survey((replace(pair(A, B), round_trip_s=0.2),), (), 2, 2), MACHINES)
    assert finding.title == "latency"
    assert "between this machine and ben" in finding.detail


def test_a_sample_and_late_pairs_are_said() -> None:
    findings = check_links(survey(machines=7, known=40, late=2), MACHINES)
    assert said(findings) == [("ok", "links sampled"), ("warn", "links not measured"), ("ok", "links")]
    assert "7 of 40" in findings[0].detail


def test_late_reports_of_a_bad_link_are_no_second_finding() -> None:
    findings = check_links(survey(replace(pair(A, B), in_bytes_per_s=1e5), late=1), MACHINES)
    assert said(findings) == [("warn", "bandwidth"), ("ok", "links not measured")]


def test_a_machine_without_a_link_is_judged_by_dialing_alone() -> None:
    """By the most telling of its addresses; nothing is concluded about its firewall."""
    probes = (PathProbe("10.0.0.3:8082", Reach.SILENT), PathProbe("10.9.0.3:8082", Reach.REFUSED))
    away = PairMeasure(A, C, there=Dials(probes))
    found = Survey((pair(A, B), away), (), 3, 3)
    assert said(check_links(found, MACHINES)) == [("ok", "links")]
    assert why_unreachable(found, A) == {C: probes[1]}
    assert swallowed(Survey((replace(away, there=dials(C, Reach.SMALL)),))) == {A, C}


def test_clocks_differ_by_what_the_round_trip_does_not_explain() -> None:
    pairs = replace(pair(A, B), skew_s=-7.0, round_trip_s=2.0), replace(pair(A, C), skew_s=0.0004)
    assert skews_s(survey(*pairs), MACHINES) == {"ben": -6.0, "cleo": 0.0}


def test_names_of_machines() -> None:
    assert MACHINES.name(A) == "this machine"
    assert MACHINES.name(NodeId("d" * 32)) == "dddddddd"
    assert MACHINES.between((B, A)) == "this machine and ben"


D = NodeId("d" * 32)
ALL: list[Pair] = [(A, B), (A, C), (A, D), (B, C), (B, D), (C, D)]


@pytest.mark.parametrize(
    ("bad", "tried", "expected"),
    [
        ([], ALL, Blamed()),
        ([(A, B)], ALL, Blamed(pairs=((A, B),))),
        ([(A, B)], [(A, B)], Blamed(pairs=((A, B),))),
        ([(A, C), (B, C), (C, D)], ALL, Blamed(machines=(C,))),
        ([(A, C), (B, C), (C, D), (A, B)], ALL, Blamed(machines=(C,), pairs=((A, B),))),
        ([(A, B), (A, C)], ALL, Blamed(pairs=((A, B), (A, C)))),
        ([(A, B), (A, C), (A, D), (B, C), (B, D)], ALL, Blamed(machines=(A, B))),
        (ALL, ALL, Blamed(everybody=True)),
    ],
)
def test_blame(bad: list[Pair], tried: list[Pair], expected: Blamed) -> None:
    assert blame(bad, tried, A) == expected
