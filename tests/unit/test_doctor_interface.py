"""Is this machine offered to others on the interface that they can reach?"""

from __future__ import annotations

import pytest

from covey.doctor.interface import Surroundings, check_interface
from covey_mesh.core.addresses import InterfaceAddress


def at(interface: str, address: str) -> InterfaceAddress:
    return InterfaceAddress(interface, address, 24, 2)


LO, LAN, DOCKER = at("lo", "127.0.0.1"), at("eth0", "192.168.1.5"), at("docker0", "172.17.0.1")
VPN, BEHIND, V6 = at("wg0", "10.8.0.1"), at("eth0", "172.28.3.4"), at("eth0", "fd00::5")
NOWHERE, WSL, CONTAINER = Surroundings(), Surroundings(wsl=True), Surroundings(container=True)


@pytest.mark.parametrize(
    ("link", "advertise", "found", "where", "expected", "words"),
    [
        ("0.0.0.0", [], [LO, LAN, DOCKER, VPN], NOWHERE, "", ""),
        ("0.0.0.0", ["192.168.1.5"], [LO, LAN, DOCKER], NOWHERE, "", ""),
        ("0.0.0.0", ["desk.example"], [LO, LAN], NOWHERE, "", ""),
        ("0.0.0.0", ["203.0.113.9"], [LO, LAN], NOWHERE, "", ""),
        ("0.0.0.0", ["172.17.0.1"], [LO, LAN, DOCKER], NOWHERE, "fail", "set it to 192.168.1.5"),
        ("0.0.0.0", ["[fd00::5]", "172.17.0.1"], [LO, V6, DOCKER], NOWHERE, "", ""),
        ("0.0.0.0", ["10.8.0.1"], [LO, LAN, VPN], NOWHERE, "fail", "a VPN"),
        ("0.0.0.0", ["10.8.0.1"], [LO, VPN], NOWHERE, "", ""),
        ("127.0.0.1", [], [LO, LAN], NOWHERE, "fail", "0.0.0.0:8082"),
        ("127.0.0.1", [], [LO], NOWHERE, "", ""),
        ("172.17.0.1", [], [LO, LAN, DOCKER], NOWHERE, "fail", "192.168.1.5:8082"),
        ("0.0.0.0", [], [LO, BEHIND], WSL, "fail", "networkingMode=mirrored"),
        ("0.0.0.0", [], [LO, LAN], WSL, "", ""),
        ("0.0.0.0", ["192.168.1.77"], [LO, BEHIND], WSL, "", ""),
        ("0.0.0.0", [], [LO, BEHIND], CONTAINER, "warn", "--network host"),
        ("0.0.0.0", [], [LO, BEHIND, LAN], CONTAINER, "", ""),
        ("0.0.0.0", [], [LO, BEHIND], NOWHERE, "", ""),
        ("0.0.0.0", [], [LO], CONTAINER, "", ""),
    ],
)
def test_the_interface(
    link: str, advertise: list[str], found: list[InterfaceAddress], where: Surroundings, expected: str, words: str
) -> None:
    findings = check_interface(link, advertise, found, where)
    assert [finding.level for finding in findings] == ([expected] if expected else [])
    assert words in "".join(f"{finding.detail} -> {finding.fix}" for finding in findings)
