"""Judges the links of the pool: who reaches whom, full packets, clocks, latency, bandwidth. Pure; survey.py asks.

One cause gives one finding: what every pair of a machine shares is blamed on that machine, the rest on its pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from covey.doctor.blame import Pair, blame
from covey.doctor.finding import Finding, fail, ok, warn
from covey.doctor.measuring import swallows_full_packets
from covey.doctor.pair import Dials, PairMeasure, Survey
from covey_mesh.core.names import NodeId, short
from covey_mesh.io.path_probe import PathProbe, Reach

ROUND_TRIP_WARN_S = 0.05
"""An office network answers within a few ms; beyond this, tokens from another machine come visibly late."""

BANDWIDTH_WARN_BYTES_PER_S = 1.25e6
"""10 Mbit/s: a prompt of 100 KB is on its way for 0.1 s."""

MTU_FIX = (
    "lower the MTU of the interface (`ip link set dev INTERFACE mtu 1280`; in WSL2, VPN and tunnel settings likewise), "
    "and let ICMP `fragmentation needed` pass in firewalls between"
)
LATENCY_FIX = "prefer a cable to Wi-Fi, and a direct path to a VPN; the scheduler prefers nearer machines"
BANDWIDTH_FIX = "prefer a cable to Wi-Fi; look for a port at 10 Mbit/s (`ethtool INTERFACE`), a bad cable or a limiter"

DATA_PORT = "data_port"
MEANWHILE = "answers between the two travel over `link`, which takes more CPU"

FIGURES_SHOWN_MAX = 6

_ARRIVED = (Reach.WHOLE, Reach.SMALL, Reach.FROZEN)
"""The path and the firewalls on it let the connection through."""


@dataclass(frozen=True, slots=True)
class Machines:
    """Whose doctor this is, and what people call the others.

    `excused`: another finding says already why the own machine cannot be dialed.
    """

    own: NodeId
    names: Mapping[NodeId, str] = field(default_factory=dict)
    excused: bool = False

    def name(self, node_id: NodeId) -> str:
        return "this machine" if node_id == self.own else self.names.get(node_id) or short(node_id)

    def at(self, node_id: NodeId) -> str:
        """Where a fix is to be carried out."""
        return "here" if node_id == self.own else f"on {self.name(node_id)}"

    def between(self, pair: Pair) -> str:
        """Own machine first, so that the text reads from here."""
        first, second = sorted(pair, key=lambda one: (one != self.own, self.name(one)))
        return f"{self.name(first)} and {self.name(second)}"


@dataclass(frozen=True, slots=True)
class Try:
    """One machine's tries to open a connection to a port of another."""

    source: NodeId
    target: NodeId
    probes: tuple[PathProbe, ...]

    @property
    def arrived(self) -> bool:
        return any(probe.reach in _ARRIVED for probe in self.probes)


def check_links(survey: Survey, machines: Machines) -> list[Finding]:
    """Everything that the survey shows; one `ok` with the figures where nothing is wrong."""
    findings = [
        *check_reach(survey, machines),
        *check_mtu(survey, machines),
        *check_latency(survey, machines),
        *check_bandwidth(survey, machines),
    ]
    return findings + _summary(survey, not findings)


def check_reach(survey: Survey, machines: Machines) -> list[Finding]:
    """Blocked ports and one-way paths, among machines that have a link (which may have been opened by either side)."""
    return [
        *_check_port(_tries(survey, lambda dials: dials.link), machines, "link"),
        *_check_port(_tries(survey, lambda dials: dials.gateway), machines, "http"),
        *_check_port(_tries(survey, _data_where_linked), machines, DATA_PORT),
    ]


def _data_where_linked(dials: Dials) -> tuple[PathProbe, ...]:
    """Not where even the link port is closed: one finding for one firewall."""
    return dials.data if any(probe.reach in _ARRIVED for probe in dials.link) else ()


def _tries(survey: Survey, port: Callable[[Dials], tuple[PathProbe, ...]]) -> list[Try]:
    tries = []
    for pair in survey.pairs:
        if pair.linked:
            ways = ((pair.source, pair.target, pair.there), (pair.target, pair.source, pair.back))
            tries += [Try(a, b, port(dials)) for a, b, dials in ways if dials is not None and port(dials)]
    return tries


def _check_port(tries: Sequence[Try], machines: Machines, port: str) -> list[Finding]:
    findings = []
    for target in dict.fromkeys(one.target for one in tries):
        at_target = [one for one in tries if one.target == target]
        blocked = [one for one in at_target if not one.arrived]
        if target == machines.own and machines.excused:
            continue
        if blocked and len(blocked) == len(at_target):
            findings.append(_firewall(target, blocked, machines, port))
        else:
            findings += [_one_way(one, machines, port) for one in blocked]
    return findings


def _firewall(target: NodeId, blocked: Sequence[Try], machines: Machines, port: str) -> Finding:
    address = blocked[0].probes[0].address
    number = address.rpartition(":")[2]
    tried_by = ", ".join(machines.name(one.source) for one in blocked)
    detail = f"{machines.name(target)} cannot be reached at {address} ({port}); tried by {tried_by}: {_why(blocked[0])}"
    allow = f"`ufw allow {number}/tcp`, or `firewall-cmd --permanent --add-port={number}/tcp`"
    fix = f"{machines.at(target)}: allow TCP port {number} in: {allow}"
    if any(probe.reach is Reach.REFUSED for one in blocked for probe in one.probes):
        fix += f"; and see that `{port}` in covey.toml listens on that address"
    if port == DATA_PORT:
        fix += f"; until then {MEANWHILE}"
    worst = fail if target == machines.own and port == "link" else warn
    return worst(f"firewall ({port})", detail, fix)


def _one_way(one: Try, machines: Machines, port: str) -> Finding:
    source, target, address = machines.name(one.source), machines.name(one.target), one.probes[0].address
    detail = f"{source} cannot open a connection to {target} at {address} ({port}): {_why(one)}; others can"
    fix = (
        f"{machines.at(one.target)}: allow TCP port {address.rpartition(':')[2]} from {source} too, and see that no "
        f"router or VLAN rule between drops that direction; until then {_meanwhile(port, target)}"
    )
    return warn("one-way", detail, fix)


def _meanwhile(port: str, target: str) -> str:
    return MEANWHILE if port == DATA_PORT else f"the link that {target} opens is used"


def _why(one: Try) -> str:
    return one.probes[0].detail or one.probes[0].reach.value


def check_mtu(survey: Survey, machines: Machines) -> list[Finding]:
    """Paths on which small packets pass and full ones vanish: links come up, and die with the first long prompt."""
    bad = [(one.source, one.target) for one in survey.pairs if swallows_full_packets(one.there, one.back)]
    tried = [(one.source, one.target) for one in survey.pairs if one.there is not None]
    what = "small packets pass and full ones vanish"
    return [fail("path MTU", f"{where} {what}", at + MTU_FIX) for where, at, _ in _places(bad, tried, machines)]


def _places(bad: Sequence[Pair], tried: Sequence[Pair], machines: Machines) -> list[tuple[str, str, list[Pair]]]:
    """(where it is bad, where to mend it, the pairs of it), one for each cause."""
    blamed = blame(bad, tried, machines.own)
    if blamed.everybody:
        return [("between all machines", "on the network that they share: ", list(bad))]
    at_machines = [
        (f"between {machines.name(one)} and all others", f"{machines.at(one)}: ", [pair for pair in bad if one in pair])
        for one in blamed.machines
    ]
    return at_machines + [(f"between {machines.between(pair)}", "on both: ", [pair]) for pair in blamed.pairs]


def check_latency(survey: Survey, machines: Machines) -> list[Finding]:
    """Slow answers over links."""
    figures = {(one.source, one.target): one.round_trip_s for one in survey.pairs}
    known = {pair: found for pair, found in figures.items() if found is not None}
    bad = [pair for pair, found in known.items() if found > ROUND_TRIP_WARN_S]
    return _figures("latency", known, bad, machines, LATENCY_FIX, lambda s: f"a round trip takes {s * 1000:.0f} ms")


def check_bandwidth(survey: Survey, machines: Machines) -> list[Finding]:
    """Slow transfers over links, the slower direction of each pair."""
    figures = {(one.source, one.target): slower_rate(one) for one in survey.pairs}
    known = {pair: found for pair, found in figures.items() if found is not None}
    bad = [pair for pair, found in known.items() if found < BANDWIDTH_WARN_BYTES_PER_S]
    return _figures("bandwidth", known, bad, machines, BANDWIDTH_FIX, lambda rate: f"only {_megabits(rate)}")


def _figures(
    title: str,
    known: Mapping[Pair, float],
    bad: Sequence[Pair],
    machines: Machines,
    fix: str,
    words: Callable[[float], str],
) -> list[Finding]:
    return [
        warn(title, f"{where} {', '.join(words(known[pair]) for pair in pairs[:FIGURES_SHOWN_MAX])}", at + fix)
        for where, at, pairs in _places(bad, list(known), machines)
    ]


def slower_rate(pair: PairMeasure) -> float | None:
    """Bytes a second; None where neither direction was measured."""
    rates = [rate for rate in (pair.out_bytes_per_s, pair.in_bytes_per_s) if rate is not None]
    return min(rates, default=None)


def skews_s(survey: Survey, machines: Machines) -> dict[str, float]:
    """By display name, the other machine's clock minus ours, less what the round trip leaves uncertain."""
    found = {}
    for pair in survey.pairs:
        if pair.source == machines.own and pair.skew_s is not None and pair.round_trip_s is not None:
            sure_s = max(0.0, abs(pair.skew_s) - pair.round_trip_s / 2)
            found[machines.name(pair.target)] = sure_s if pair.skew_s > 0 else -sure_s
    return found


def _summary(survey: Survey, healthy: bool) -> list[Finding]:
    findings = []
    if survey.known > survey.machines:
        detail = f"a sample: {survey.machines} of {survey.known} machines were measured against each other"
        findings.append(ok("links sampled", detail))
    if survey.late:
        detail = f"{survey.late} pairs were not measured in time"
        fix = "run `covey doctor` again; if it stays, look at the machines named above, or at `covey ps`"
        # A link that is bad delays what others report over it: that has its finding already.
        findings.append(warn("links not measured", detail, fix) if healthy else ok("links not measured", detail))
    measured = [one for one in survey.pairs if one.linked]
    if healthy and measured:
        findings.append(ok("links", _range(measured)))
    return findings


def _range(pairs: Sequence[PairMeasure]) -> str:
    trips = [pair.round_trip_s for pair in pairs if pair.round_trip_s is not None]
    rates = [rate for rate in map(slower_rate, pairs) if rate is not None]
    text = f"{len(pairs)} pairs, round trips {min(trips) * 1000:.1f} to {max(trips) * 1000:.1f} ms"
    return f"{text}, {_megabits(min(rates))} or more" if rates else text


def _megabits(bytes_per_s: float) -> str:
    return f"{bytes_per_s * 8 / 1e6:.3g} Mbit/s"


def why_unreachable(survey: Survey, own: NodeId) -> dict[NodeId, PathProbe]:
    """For machines without a link: the best that dialing them from here came to."""
    order = [Reach.WHOLE, Reach.SMALL, Reach.UNTRUSTED, Reach.FROZEN, Reach.REFUSED, Reach.SILENT]
    return {
        pair.target: min(pair.there.link, key=lambda probe: order.index(probe.reach))
        for pair in survey.pairs
        if pair.source == own and not pair.linked and pair.there is not None and pair.there.link
    }


def swallowed(survey: Survey) -> set[NodeId]:
    """Machines in a pair that is already explained by its MTU."""
    return {one for p in survey.pairs if swallows_full_packets(p.there, p.back) for one in (p.source, p.target)}
