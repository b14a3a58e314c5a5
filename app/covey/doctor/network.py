"""Judges this machine's network: addresses, multicast, ports, names, clock. Pure; probes.py does the looking."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from covey.doctor.finding import Finding, fail, ok, warn
from covey.doctor.pair import Heard
from covey_mesh.core.addresses import AddressKind, InterfaceAddress, kind_of, usable_addresses
from covey_mesh.core.names import NodeId, short
from covey_mesh.io.certificates import BACKDATED_HOURS
from covey_mesh.io.path_probe import PathProbe

CLOCK_SKEW_WARN_S = 5.0
"""Certificates and logs tolerate this; people who read two machines' logs side by side do not tolerate more."""

CLOCK_SKEW_FAIL_S = BACKDATED_HOURS * 3600.0
"""Beyond it the slower machine takes a fresh certificate of the other for one that is not valid yet."""

SET_CLOCK = "turn on time synchronisation: `timedatectl set-ntp true`"

EARLIEST_SANE_UNIX_S = 1_735_689_600.0
"""2025-01-01: before any covey. A clock that says less was never set (a board without a battery)."""

_KIND_WORDS = {
    AddressKind.VPN: "a VPN",
    AddressKind.LINK_LOCAL: "link-local only",
    AddressKind.CONTAINER: "a container or virtual machine bridge",
    AddressKind.LOOPBACK: "loopback",
}


def check_addresses(found: Sequence[InterfaceAddress]) -> list[Finding]:
    """Is there an address that others can dial, and which ones are left out?"""
    title = "addresses"
    usable = usable_addresses(found)
    if not usable:
        return [fail(title, "no network address at all", "connect a cable or Wi-Fi; covey notices by itself")]
    listed = _listed(usable)
    best = kind_of(usable[0])
    if best is AddressKind.LOOPBACK:
        return [warn(title, "only loopback: other machines cannot reach this one", "connect a cable or Wi-Fi")]
    if best is not AddressKind.LAN:
        detail = f"only {_KIND_WORDS[best]}: {listed}"
        fix = "join the office network, or name this machine's address for others: `advertise` in covey.toml"
        return [warn(title, detail, fix)]
    findings = [ok(title, f"others dial {listed}")]
    if not any(one.has_carrier for one in usable):
        fix = "plug the cable in, or check the switch's port"
        findings = [fail(title, f"no cable on {usable[0].interface}", fix)]
    left_out = [one for one in found if kind_of(one) in (AddressKind.VPN, AddressKind.CONTAINER)]
    if left_out:
        findings.append(ok("addresses left out", f"{_listed(left_out)} (VPN, container or virtual machine)"))
    return findings


def _listed(addresses: Iterable[InterfaceAddress]) -> str:
    return ", ".join(f"{one.address} ({one.interface})" for one in addresses)


@dataclass(frozen=True, slots=True)
class MulticastProbe:
    """What a probe of one interface saw. `problem` is the error of opening or sending, "" if there was none."""

    interface: str
    family: str
    problem: str = ""
    heard_own: bool = False
    heard_others: tuple[str, ...] = ()


FILTERED = (
    "the switch or access point filters multicast: turn off IGMP snooping (or turn on a querier) and client isolation"
)
ALLOW_MDNS = "allow UDP port 5353 in: `ufw allow 5353/udp`, or `firewall-cmd --permanent --add-service=mdns`"


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What is known of others when multicast is judged.

    `heard`: tests with machines on this network. `own_link`: HOST:PORT that others can dial, "" if unknown.
    `elsewhere`: HOST:PORT of machines met before that are not reached now. `routed`: name and HOST:PORT of machines
    that are linked, and on other networks, where multicast does not go. `pool_known`: a running agent told all that.
    """

    heard: tuple[Heard, ...] = ()
    own_link: str = ""
    elsewhere: tuple[str, ...] = ()
    routed: tuple[tuple[str, str], ...] = ()
    pool_known: bool = False


NOBODY = Neighbours()
ROUTED_SHOWN_MAX = 4


def check_multicast(probes: Sequence[MulticastProbe], neighbours: Neighbours = NOBODY) -> list[Finding]:
    """Multicast out and in, apart, on each interface; what holds for IPv4 and IPv6 alike is said once."""
    if not probes:
        return [warn("multicast", "no interface to try it on", "connect a cable or Wi-Fi")]
    families: dict[tuple[str, Finding], list[str]] = {}
    for probe in probes:
        for finding in _check_one(probe, neighbours):
            families.setdefault((probe.interface, finding), []).append(probe.family)
    return [
        replace(finding, title=f"{finding.title} on {interface} ({', '.join(found)})")
        for (interface, finding), found in families.items()
    ]


def _check_one(probe: MulticastProbe, neighbours: Neighbours) -> list[Finding]:
    if probe.problem:
        fix = (
            "allow UDP port 5353 out in this machine's firewall, and multicast on the interface "
            f"(`ip link set {probe.interface} multicast on`); until then name a machine with --peer HOST:PORT"
        )
        return [fail("multicast out", f"cannot send: {probe.problem}", fix)]
    return [_check_out(neighbours.heard), _check_in(probe, neighbours)]


def _check_out(heard: Sequence[Heard]) -> Finding:
    title = "multicast out"
    there = sum(one.there for one in heard)
    if not heard:
        return ok(title, "sent")
    if there:
        return ok(title, f"heard by {there} of {len(heard)} machines that listened")
    detail = f"sent, and heard by none of {len(heard)} machines on this network that listened"
    fix = f"{FILTERED}, or their firewalls drop UDP port 5353; links work meanwhile, but nobody finds this machine anew"
    return warn(title, detail, fix)


def _check_in(probe: MulticastProbe, neighbours: Neighbours) -> Finding:
    title = "multicast in"
    here = sum(one.here for one in neighbours.heard)
    if probe.heard_others:
        return ok(title, f"heard {', '.join(probe.heard_others[:4])}")
    if here:
        return ok(title, f"heard {here} machines of the pool")
    if not probe.heard_own:
        detail = "this machine did not even hear itself: its own firewall drops what comes in"
        return fail(title, detail, f"{ALLOW_MDNS}; until then name a machine with --peer HOST:PORT")
    if neighbours.heard:
        detail = f"{len(neighbours.heard)} machines on this network spoke, and none was heard"
        return warn(title, detail, f"{FILTERED}; links work meanwhile, but this machine finds nobody anew")
    if neighbours.routed:
        listed = ", ".join(f"{name} (`--peer {address}`)" for name, address in neighbours.routed[:ROUTED_SHOWN_MAX])
        return ok(title, f"nobody else on this network; linked on others, where multicast does not go: {listed}")
    if neighbours.pool_known:
        return ok(title, "heard nothing but this machine itself")
    return warn(title, "nothing but this machine itself answered", _alone_fix(neighbours))


def check_alone(neighbours: Neighbours) -> Finding:
    """For a running agent that knows of no other machine: what keeps it from hearing of them, if there are any?"""
    return warn("other machines", "none is known, of this pool", _alone_fix(neighbours))


def _alone_fix(neighbours: Neighbours) -> str:
    return f"fine if it is alone; else {FILTERED}, or the others are on another VLAN: {_peer_advice(neighbours)}"


def _peer_advice(neighbours: Neighbours) -> str:
    """What to put in --peer, and where."""
    there = f"start one of them with `--peer {neighbours.own_link or 'HOST:PORT'}`"
    if not neighbours.elsewhere:
        return f"{there} (or this one with the address that `covey doctor` names there); the rest is learned from it"
    return f"start this one with `--peer {neighbours.elsewhere[0]}`, or {there}; the rest is learned from it"


@dataclass(frozen=True, slots=True)
class PortProbe:
    """`purpose` names the setting. `error` is the errno of binding, 0 if the port was free."""

    purpose: str
    address: str
    error: int


def check_ports(probes: Sequence[PortProbe], agent_runs: bool) -> list[Finding]:
    """Can the agent listen where it is told to? A running agent holds its ports itself."""
    return [_check_port(probe, agent_runs) for probe in probes]


def _check_port(probe: PortProbe, agent_runs: bool) -> Finding:
    title = f"port for {probe.purpose}"
    if probe.error == 0:
        return ok(title, f"{probe.address} is free")
    if probe.error == errno.EADDRINUSE:
        if agent_runs:
            return ok(title, f"{probe.address} is in use, and the agent runs")
        port = probe.address.rpartition(":")[2]
        fix = f"see who has it with `ss -ltnp 'sport = :{port}'`, or choose another: `{probe.purpose}` in covey.toml"
        return fail(title, f"{probe.address} is taken by another program", fix)
    if probe.error == errno.EADDRNOTAVAIL:
        fix = f"use 0.0.0.0 or one of this machine's addresses for `{probe.purpose}` in covey.toml"
        return fail(title, f"{probe.address} is not an address of this machine", fix)
    if probe.error in (errno.EACCES, errno.EPERM):
        fix = f"choose a port above 1023 for `{probe.purpose}` in covey.toml"
        return fail(title, f"{probe.address} needs root", fix)
    reason = errno.errorcode.get(probe.error, str(probe.error))
    return fail(title, f"cannot listen on {probe.address}: {reason}", f"change `{probe.purpose}` in covey.toml")


def silent_peer(tried: PathProbe) -> Finding:
    """A configured peer that does not answer."""
    fix = "see that its agent runs and that firewalls and the router between pass that TCP port, or correct `peers`"
    return warn(f"peer {tried.address}", f"configured, and does not answer: {tried.detail}", fix)


@dataclass(frozen=True, slots=True)
class Seen:
    """One announcement on the LAN."""

    instance: str
    node_id: NodeId
    name: str
    hosts: tuple[str, ...]


def check_names(own: NodeId | None, own_name: str, own_hosts: Iterable[str], seen: Sequence[Seen]) -> list[Finding]:
    """Two machines with one id, or two with one display name?"""
    ours, findings = set(own_hosts), []
    places: dict[NodeId, set[str]] = {}
    names: dict[str, set[NodeId]] = {own_name: {own}} if own is not None else {}
    for one in seen:
        places.setdefault(one.node_id, set()).update(one.hosts)
        names.setdefault(one.name, set()).add(one.node_id)
    strangers = places.get(own, set()) - ours if own is not None else set()
    if strangers:
        detail = f"{', '.join(sorted(strangers))} announces this machine's id {short(own or '')}"
        fix = (
            "two machines share one key (a copied disk or state directory), or it is forged: on the copy, `covey join`"
        )
        findings.append(fail("machine ids", detail, fix))
    twice = {name: ids for name, ids in names.items() if name and len(ids) > 1}
    for name, ids in sorted(twice.items()):
        detail = f"{name!r} is used by {', '.join(sorted(short(i) for i in ids))}"
        fix = "nothing breaks, but people cannot tell them apart: set `name` in covey.toml on one of them"
        findings.append(warn("machine names", detail, fix))
    return findings or [ok("machine names", f"{len(places)} announced on this network, none twice")]


def check_pool_name(host: str, resolved: Sequence[str], gateways: Sequence[str]) -> Finding:
    """Does `<pool>.local` lead to gateways of this pool? `gateways` are their hosts, as far as known."""
    title = f"{host}"
    if not resolved:
        fix = "use a machine's address instead, or install mDNS resolution (`apt install libnss-mdns avahi-daemon`)"
        return warn(title, "does not resolve on this machine", fix)
    others = [address for address in resolved if address not in gateways]
    if others and gateways:
        detail = f"{', '.join(others)} answers for it and is no gateway of this pool"
        fix = "a computer or another pool has this name: rename it, or run `covey init --name` with another name"
        return warn(title, detail, fix)
    return ok(title, f"leads to {', '.join(resolved)}")


def check_clock(
    now_unix_s: float, synchronized: bool | None, peer_skews_s: Mapping[str, float], not_before_unix_s: float = 0.0
) -> list[Finding]:
    """Is the clock set? `peer_skews_s`: by display name, the other machine's clock minus ours."""
    title = "clock"
    if now_unix_s < EARLIEST_SANE_UNIX_S:
        return [fail(title, "it was never set", f"here: {SET_CLOCK}")]
    if now_unix_s < not_before_unix_s:
        behind_s = not_before_unix_s - now_unix_s
        return [fail(title, f"{behind_s:.0f} s before this machine's own certificate was made", f"here: {SET_CLOCK}")]
    findings = _check_skews(peer_skews_s)
    if synchronized is False:
        findings.append(warn(title, "not synchronised with a time server", f"here: {SET_CLOCK}"))
    return findings or [ok(title, "set" if synchronized is None else "set and synchronised")]


def _check_skews(skews_s: Mapping[str, float]) -> list[Finding]:
    """Where all others agree with each other, it is this machine's clock that is wrong."""
    off = {name: skew_s for name, skew_s in sorted(skews_s.items()) if abs(skew_s) > CLOCK_SKEW_WARN_S}
    if len(off) > 1 and len(off) == len(skews_s) and max(off.values()) - min(off.values()) < CLOCK_SKEW_WARN_S:
        ours_s = -sum(off.values()) / len(off)
        return [_skewed(f"this machine's differs from all others by {ours_s:+.1f} s", ours_s, "here")]
    where = "on whichever of the two is wrong" if len(skews_s) == 1 else "on {name}"
    return [
        _skewed(f"{name}'s differs from this machine's by {skew_s:+.1f} s", skew_s, where.format(name=name))
        for name, skew_s in off.items()
    ]


def _skewed(detail: str, skew_s: float, where: str) -> Finding:
    return (fail if abs(skew_s) > CLOCK_SKEW_FAIL_S else warn)("clock", detail, f"{where}: {SET_CLOCK}")
