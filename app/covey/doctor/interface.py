"""Judges whether this machine is offered to others on the interface that they can reach. Pure.

The wrong one is a container's bridge, a VPN, or the private network that WSL2 and Docker put behind the real machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from covey.doctor.finding import Finding, fail, warn
from covey_mesh.core.addresses import AddressKind, InterfaceAddress, kind_of, usable_addresses

TITLE = "interface"

_PRIVATE_BEHIND = ipaddress.ip_network("172.16.0.0/12")
"""From where WSL2 (in its NAT mode) and Docker take their networks."""

_WORDS = {
    AddressKind.VPN: "a VPN",
    AddressKind.CONTAINER: "a container or virtual machine bridge",
    AddressKind.LOOPBACK: "loopback",
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What this system runs inside of."""

    wsl: bool = False
    container: bool = False


def check_interface(
    link_host: str, advertise: Sequence[str], found: Iterable[InterfaceAddress], surroundings: Surroundings
) -> list[Finding]:
    """Nothing where all is well. `link_host`: of the setting `link`; `advertise`: the setting, hosts."""
    found = tuple(found)
    lan = [one for one in usable_addresses(found) if kind_of(one) is AddressKind.LAN]
    best = lan[0].address if lan else "an address of the office network"
    findings = _check_advertised(advertise, found, best) if advertise else _check_listened(link_host, found, best)
    if not findings and not advertise:
        findings = _check_surroundings(lan, surroundings)
    return findings


def _check_advertised(advertise: Sequence[str], found: Sequence[InterfaceAddress], best: str) -> list[Finding]:
    """Only what stands first matters much: the others are tried when it fails."""
    wrong = _wrong(advertise[0], found)
    if wrong is None:
        return []
    detail = f"others are told to dial {wrong.address} ({wrong.interface}), {_WORDS[kind_of(wrong)]}"
    return [fail(TITLE, detail, f"remove `advertise` from covey.toml, or set it to {best}")]


def _check_listened(link_host: str, found: Sequence[InterfaceAddress], best: str) -> list[Finding]:
    wrong = _wrong(link_host, found)
    if wrong is None:
        return []
    detail = f"links are taken on {wrong.address} ({wrong.interface}) only, {_WORDS[kind_of(wrong)]}"
    return [fail(TITLE, detail, f"remove `link` from covey.toml, or set it to 0.0.0.0:8082 or {best}:8082")]


def _wrong(host: str, found: Sequence[InterfaceAddress]) -> InterfaceAddress | None:
    """The address, if it is of this machine and of a kind that others cannot dial though a better one is there."""
    bare = host.strip("[]")
    own = next((one for one in found if one.address == bare), None)
    better = usable_addresses(found)
    if own is None or not better or kind_of(own) not in _WORDS:
        return None
    return own if kind_of(better[0]) < kind_of(own) else None


def _check_surroundings(lan: Sequence[InterfaceAddress], surroundings: Surroundings) -> list[Finding]:
    behind = [one for one in lan if not one.is_ipv6 and ipaddress.ip_address(one.address) in _PRIVATE_BEHIND]
    if not lan or len(behind) < sum(not one.is_ipv6 for one in lan):
        return []
    where = ", ".join(one.address for one in behind)
    if surroundings.wsl:
        fix = (
            "in Windows write `[wsl2]` and `networkingMode=mirrored` to .wslconfig, run `wsl --shutdown`, and allow "
            "TCP 8082 and UDP 5353 in the Hyper-V firewall"
        )
        return [fail(TITLE, f"WSL2 hides this machine behind Windows: others cannot dial {where}", fix)]
    if surroundings.container:
        fix = (
            "start the container with `--network host`; or publish port 8082 and set `advertise` to the host's address"
        )
        return [warn(TITLE, f"this container is behind its host: others cannot dial {where}", fix)]
    return []
