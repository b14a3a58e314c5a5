"""What joins the hosts of a lab. A bridge for now; a software switch with delay, loss and cuts fits the same seam."""

from __future__ import annotations

from typing import Protocol

from tests.lan.shell import ip


class Switch(Protocol):
    """Joins hosts by ports; each port can be unplugged. Lives in a namespace of its own."""

    def attach(self, port: str, namespace: str, interface: str) -> None:
        """Make `interface` inside `namespace`, joined to this switch by `port`, up."""

    def unplug(self, port: str) -> None:
        """Pull the cable: the host sees its carrier go."""

    def plug(self, port: str) -> None:
        """Put it back."""

    def close(self) -> None:
        """Take everything down."""


class BridgeSwitch:
    """A Linux bridge without multicast snooping: every port hears every multicast, as with a plain office switch."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        ip("netns", "add", namespace)
        ip("-n", namespace, "link", "set", "lo", "up")
        ip("-n", namespace, "link", "add", "switch0", "type", "bridge", "mcast_snooping", "0", "forward_delay", "0")
        ip("-n", namespace, "link", "set", "switch0", "up")

    def attach(self, port: str, namespace: str, interface: str) -> None:
        """See Switch."""
        peer = ("peer", "name", interface, "netns", namespace)
        ip("-n", self._namespace, "link", "add", port, "type", "veth", *peer)
        ip("-n", self._namespace, "link", "set", port, "master", "switch0", "up")
        ip("-n", namespace, "link", "set", interface, "up")

    def unplug(self, port: str) -> None:
        """See Switch."""
        ip("-n", self._namespace, "link", "set", port, "down")

    def plug(self, port: str) -> None:
        """See Switch."""
        ip("-n", self._namespace, "link", "set", port, "up")

    def close(self) -> None:
        """See Switch."""
        ip("netns", "del", self._namespace, check=False)
