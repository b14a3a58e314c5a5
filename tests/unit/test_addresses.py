"""Which addresses are offered to others, as tables."""

from __future__ import annotations

import pytest

from covey_mesh.core.addresses import (
    ADVERTISED_ADDRESSES_MAX,
    AddressKind,
    InterfaceAddress,
    answering,
    host_port,
    kind_of,
    nearest_first,
    one_per_interface,
    usable_addresses,
)


def at(interface: str, address: str, prefix: int = 24, index: int = 2, carrier: bool = True) -> InterfaceAddress:
    return InterfaceAddress(interface, address, prefix, index, carrier)


@pytest.mark.parametrize(
    ("interface", "address", "kind"),
    [
        ("eth0", "192.168.1.5", AddressKind.LAN),
        ("veth0", "10.0.0.1", AddressKind.LAN),
        ("enp3s0", "10.1.2.3", AddressKind.LAN),
        ("wlan0", "fd00::5", AddressKind.LAN),
        ("wlp2s0", "2001:db8::5", AddressKind.LAN),
        ("eth0", "203.0.113.9", AddressKind.LAN),
        ("br0", "192.168.1.5", AddressKind.LAN),
        ("bridge0", "192.168.1.5", AddressKind.LAN),
        ("br-lan", "192.168.1.1", AddressKind.LAN),
        ("docker0", "172.17.0.1", AddressKind.CONTAINER),
        ("br-0a1b2c3d4e5f", "172.18.0.1", AddressKind.CONTAINER),
        ("virbr0", "192.168.122.1", AddressKind.CONTAINER),
        ("cni0", "10.42.0.1", AddressKind.CONTAINER),
        ("vEthernet (WSL)", "172.20.0.1", AddressKind.CONTAINER),
        ("docker0", "fe80::1", AddressKind.CONTAINER),
        ("tailscale0", "100.101.1.1", AddressKind.VPN),
        ("wg0", "10.8.0.2", AddressKind.VPN),
        ("tun0", "10.8.0.2", AddressKind.VPN),
        ("utun3", "10.8.0.2", AddressKind.VPN),
        ("ztabcdef12", "10.147.0.2", AddressKind.VPN),
        ("eth7", "100.64.0.1", AddressKind.VPN),
        ("eth0", "169.254.3.4", AddressKind.LINK_LOCAL),
        ("eth0", "fe80::1234", AddressKind.LINK_LOCAL),
        ("vethabc1234", "fe80::1234", AddressKind.LINK_LOCAL),
        ("lo", "127.0.0.1", AddressKind.LOOPBACK),
        ("lo", "::1", AddressKind.LOOPBACK),
        ("eth0", "0.0.0.0", AddressKind.UNUSABLE),
        ("eth0", "ff02::1", AddressKind.UNUSABLE),
        ("eth0", "not an address", AddressKind.UNUSABLE),
    ],
)
def test_kind_of(interface: str, address: str, kind: AddressKind) -> None:
    assert kind_of(at(interface, address)) is kind


LO = at("lo", "127.0.0.1", 8, 1)
LO6 = at("lo", "::1", 128, 1)
LAN = at("eth0", "192.168.1.5")
LAN6 = at("eth0", "fd00::5", 64)
FE80 = at("eth0", "fe80::5", 64)
DOCKER = at("docker0", "172.17.0.1", 16, 4)
VPN = at("tailscale0", "100.101.1.1", 32, 5)


@pytest.mark.parametrize(
    ("found", "options", "usable"),
    [
        ([], {}, []),
        ([LO, LO6], {}, [LO]),
        ([LO, LAN], {}, [LAN]),
        ([LO, DOCKER, VPN, FE80, LAN6, LAN], {}, [LAN, LAN6]),
        ([LO, DOCKER, VPN, FE80, LAN], {"include_loopback": True}, [LAN, LO]),
        ([LO, DOCKER, VPN, FE80, LAN], {"include_vpn": True}, [LAN, VPN]),
        ([LO, DOCKER, VPN, FE80], {}, [VPN]),
        ([LO, DOCKER, FE80], {}, [FE80]),
        ([LO, DOCKER], {}, [DOCKER]),
        ([at("eth0", "0.0.0.0")], {}, []),
    ],
)
def test_only_the_best_kind_present_is_offered(
    found: list[InterfaceAddress], options: dict[str, bool], usable: list[InterfaceAddress]
) -> None:
    assert usable_addresses(found, **options) == tuple(usable)


def test_an_interface_without_a_cable_comes_last() -> None:
    unplugged = at("eth0", "10.0.0.1", index=2, carrier=False)
    wireless = at("wlan0", "10.0.1.1", index=3)
    assert usable_addresses([unplugged, wireless]) == (wireless, unplugged)


def test_the_number_of_addresses_is_bounded_and_keeps_the_loopback_that_was_asked_for() -> None:
    many = [at("eth0", f"10.0.0.{n}") for n in range(1, 40)]
    usable = usable_addresses([*many, LO], include_loopback=True)
    assert len(usable) == ADVERTISED_ADDRESSES_MAX
    assert usable[-1] == LO


@pytest.mark.parametrize(
    ("listen_host", "answers"),
    [
        ("", (LO, LAN, LAN6)),
        ("::", (LO, LAN, LAN6)),
        ("0.0.0.0", (LO, LAN)),
        ("192.168.1.5", (LAN,)),
        ("10.9.9.9", ()),
    ],
)
def test_only_addresses_on_which_the_listener_answers(listen_host: str, answers: tuple[InterfaceAddress, ...]) -> None:
    assert answering([LO, LAN, LAN6], listen_host) == answers


def test_one_per_interface_and_family() -> None:
    second = at("eth0", "192.168.1.6")
    assert one_per_interface([LAN, second, LAN6, FE80, VPN]) == (LAN, LAN6, VPN)


@pytest.mark.parametrize(
    ("address", "text"),
    [("10.0.0.1", "10.0.0.1:80"), ("fd00::1", "[fd00::1]:80"), ("fe80::1%eth0", "[fe80::1%eth0]:80")],
)
def test_host_port(address: str, text: str) -> None:
    assert host_port(address, 80) == text


@pytest.mark.parametrize(
    ("addresses", "nearest"),
    [
        (["10.9.9.9", "192.168.1.77"], ("192.168.1.77", "10.9.9.9")),
        (["10.9.9.9", "10.8.8.8"], ("10.9.9.9", "10.8.8.8")),
        (["fd00::99", "192.168.1.1"], ("fd00::99", "192.168.1.1")),
        (["fe80::9%2", "junk", "0.0.0.0", "224.0.0.1"], ("fe80::9%2",)),
        ([], ()),
    ],
)
def test_addresses_on_our_own_subnets_are_tried_first(addresses: list[str], nearest: tuple[str, ...]) -> None:
    assert nearest_first(addresses, [LAN, LAN6, LO]) == nearest
