"""Where a machine may be reached and when to try: ranked addresses and backoff for one target.

Not here: which targets are worth a link (membership.py), connecting (io/transport.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from covey_mesh.core.ports import LinkLoss
from covey_mesh.core.timing import Timing, dial_backoff_s

ADDRESSES_MAX = 8
"""Addresses kept for one machine; the worst is dropped first."""

ADDRESS_LENGTH_MAX = 262
"""HOST:PORT: a DNS name of 253 characters, brackets, a colon and five digits."""

UNPROVEN, PROVEN = 0, 1

NOT_DIALING = ""


def is_address(text: str) -> bool:
    """True for a plausible HOST:PORT; IPv6 hosts in brackets."""
    host, colon, port = text.rpartition(":")
    plausible = bool(colon) and bool(host.strip("[]")) and len(text) <= ADDRESS_LENGTH_MAX
    return plausible and port.isascii() and port.isdigit() and 0 < int(port) < 65536 and text.isprintable()


def host_of(address: str) -> str:
    """HOST of HOST:PORT, without brackets; a bare host is returned as it is."""
    if address.startswith("["):
        return address[1:].partition("]")[0]
    host, colon, _ = address.rpartition(":")
    return host if colon and ":" not in host else address


@dataclass(slots=True)
class Target:
    """One thing to dial: a known machine, or an address whose machine is not known yet."""

    addresses: dict[str, int] = field(default_factory=dict)
    """Address -> PROVEN or UNPROVEN, best first."""
    failures: int = 0
    next_dial_s: float = 0.0
    dialing: str = NOT_DIALING
    dialing_since_s: float = 0.0
    pinned: bool = False
    turn: int = 0

    def learn(self, addresses: Iterable[str], standing: int = UNPROVEN) -> bool:
        """Add addresses; True if any is new. Proven ones (from the machine itself) go before hints."""
        new = False
        for address in addresses:
            if is_address(address):
                new |= address not in self.addresses
                self.addresses[address] = max(standing, self.addresses.get(address, UNPROVEN))
        if new:
            ranked = sorted(self.addresses.items(), key=lambda item: -item[1])
            self.addresses = dict(ranked[:ADDRESSES_MAX])
        return new

    def prefer(self, address: str) -> None:
        """It worked: try it first next time."""
        if is_address(address):
            self.addresses = {address: PROVEN, **{a: s for a, s in self.addresses.items() if a != address}}
            self.learn([address], PROVEN)
            self.addresses = dict(list(self.addresses.items())[:ADDRESSES_MAX])
        self.turn = 0

    def prefer_host(self, host: str) -> None:
        """The machine was last seen at this host: try its addresses there first."""
        ranked = sorted(self.addresses.items(), key=lambda item: host_of(item[0]) != host)
        self.addresses, self.turn = dict(ranked), 0

    def start(self, now_s: float) -> str:
        """The address to dial now; each failure moves on to the next."""
        known = list(self.addresses)
        self.dialing, self.dialing_since_s = known[self.turn % len(known)], now_s
        return self.dialing

    def failed(self, now_s: float, loss: LinkLoss, cap_s: float, jitter: float, timing: Timing) -> None:
        """The backoff grows once per round over all addresses, so that a dead address delays a live one little."""
        self.dialing = NOT_DIALING
        self.turn += 1
        if self.turn % max(1, len(self.addresses)) == 0 or self.failures == 0:
            self.failures += 1
        cap_s = timing.dial_backoff_gone_s if loss is LinkLoss.UNTRUSTED and len(self.addresses) == 1 else cap_s
        self.next_dial_s = now_s + dial_backoff_s(self.failures, cap_s, jitter, timing)

    def succeeded(self) -> None:
        self.dialing, self.failures, self.turn = NOT_DIALING, 0, 0

    def renew(self, now_s: float) -> None:
        """New interest: the next dial is due now, unless one is in flight or was made a moment ago."""
        self.failures = min(self.failures, 1)
        self.next_dial_s = min(self.next_dial_s, max(now_s, self.dialing_since_s + 0.1) if self.failures else now_s)


def backoff_cap_s(now_s: float, seen_at_s: float, pinned: bool, timing: Timing) -> float:
    """The longest pause between dials: short for machines seen recently, rare for long gone ones."""
    if now_s - seen_at_s <= timing.recently_s:
        return timing.dial_backoff_max_s
    return timing.dial_backoff_pinned_s if pinned else timing.dial_backoff_gone_s
