"""Which dials are in flight, and which come next: to machines that are known, and to addresses that are only hints.

A hint (mDNS, a person, the disk, another machine's list) is an address to dial and proves nothing.
Not here: addresses and backoff of one target (dialing.py), what is worth a link (census.py), what a link brings
(links.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from covey_mesh.core.dialing import NOT_DIALING, PROVEN, Target, backoff_cap_s, host_of, is_address
from covey_mesh.core.effects import Dial, TellElection
from covey_mesh.core.events import DialFailed, Hinted, PeerGone
from covey_mesh.core.membership_state import MembershipState
from covey_mesh.core.names import NodeId, is_id
from covey_mesh.core.peers import PeerRecord
from covey_mesh.core.ports import LinkLoss

DIALS_MAX = 64
"""Dials in flight at once."""

ADDRESS_HINTS_MAX = 64
"""Addresses whose machine is not known yet (from --peer or mDNS)."""


@dataclass(slots=True)
class AddressHint:
    """An address without an id. `machine` is who answered there."""

    target: Target = field(default_factory=Target)
    machine: NodeId | None = None


class Dials:
    """`in_flight` maps an address to the machine expected there; `hints` are addresses without one."""

    def __init__(self, me: MembershipState) -> None:
        self._me = me
        self.in_flight: dict[str, NodeId | None] = {}
        self.hints: dict[str, AddressHint] = {}

    def maybe_dial(self, now_s: float, record: PeerRecord) -> None:
        """A machine without a link: dial it if that is wanted and due, else plan the next look."""
        me = self._me
        target = record.target
        if target.dialing != NOT_DIALING:
            if now_s < target.dialing_since_s + me.timing.dial_deadline_s:
                me.timers.at(("peer", record.node_id), target.dialing_since_s + me.timing.dial_deadline_s)
                return
            self._ended(now_s, record, target.dialing, LinkLoss.SILENT)
        if not target.addresses or not me.wants_link(record):
            return
        if now_s < target.next_dial_s:
            me.timers.at(("peer", record.node_id), target.next_dial_s)
        elif not self._dial(now_s, target, record.node_id):
            me.timers.at(("peer", record.node_id), now_s + me.timing.dial_backoff_s)
        else:
            me.timers.at(("peer", record.node_id), now_s + me.timing.dial_deadline_s)

    def _dial(self, now_s: float, target: Target, expected: NodeId | None) -> bool:
        """False if too many dials are in flight, or one to this address already is."""
        address = target.start(now_s)
        if len(self.in_flight) >= DIALS_MAX or address in self.in_flight:
            target.dialing = NOT_DIALING
            return False
        self.in_flight[address] = expected
        self._me.effects.append(Dial(address, expected))
        return True

    def on_failed(self, now_s: float, event: DialFailed) -> None:
        """A refusal at the host where the machine was last seen proves that its process has ended."""
        me = self._me
        if event.address not in self.in_flight:
            return
        expected = self.in_flight.pop(event.address)
        if expected is None:
            hint = self.hints.get(event.address)
            if hint is not None:
                self._hint_failed(now_s, event.address, hint, event.loss)
            return
        record = me.peers.get(expected)
        if record is not None:
            self._ended(now_s, record, event.address, event.loss)
            me.soon(now_s, record)

    def _ended(self, now_s: float, record: PeerRecord, address: str, loss: LinkLoss) -> None:
        me = self._me
        self.in_flight.pop(address, None)
        pinned, seen_at_s = record.target.pinned, record.seen_at_s
        cap_s = backoff_cap_s(now_s, seen_at_s, pinned, me.timing)
        record.target.failed(now_s, loss, cap_s, me.jitter(), me.timing)
        if loss is LinkLoss.UNTRUSTED and record.target.addresses.get(address) != PROVEN:
            record.target.addresses.pop(address, None)
        if record.link is not None:
            return
        began_before_loss = record.target.dialing_since_s < record.lost_at_s
        if record.lost is None:
            record.lost, record.lost_at_s = loss, now_s
            if record.facts is not None:
                me.touch(now_s, record)
        me.census.stale()
        same_host = host_of(address) == record.lost_host
        if loss is LinkLoss.REFUSED and same_host and not began_before_loss:
            me.effects.append(TellElection(PeerGone(record.node_id)))

    def succeeded(self, address: str, node_id: NodeId) -> None:
        """A dial of ours became a link to that machine."""
        self.in_flight.pop(address, None)
        hint = self.hints.get(address)
        if hint is None:
            return
        hint.target.succeeded()
        hint.machine = node_id
        if node_id == self._me.self_id:
            del self.hints[address]

    # --- hints --------------------------------------------------------------------------------------------------------

    def on_hinted(self, now_s: float, event: Hinted) -> None:
        """Of a machine, or of an address where one may be."""
        if event.claimed is not None:
            if is_id(event.claimed):
                self.hint_machine(now_s, event.claimed, event.addresses, event.pinned)
            return
        for address in event.addresses:
            if not is_address(address) or (address not in self.hints and len(self.hints) >= ADDRESS_HINTS_MAX):
                continue
            hint = self.hints.setdefault(address, AddressHint())
            hint.target.learn([address])
            hint.target.pinned |= event.pinned
            hint.target.renew(now_s)
            self._me.timers.at(("hint", address), now_s)

    def hint_machine(self, now_s: float, node_id: NodeId, addresses: tuple[str, ...], pinned: bool) -> None:
        """Somebody says that this machine may answer there: new interest in it, if it has no link."""
        me = self._me
        record = me.peers.meet(node_id, now_s)
        if record is None:
            return
        record.hinted_at_s = now_s
        record.target.pinned |= pinned
        known = record.target.addresses
        first = not known
        if first or any(address not in known for address in addresses):
            record.target.learn(addresses)
        if record.link is not None or not record.target.addresses:
            return
        record.target.renew(now_s)
        if first and me.self_id > node_id:
            record.target.next_dial_s = now_s + me.timing.dial_courtesy_s
        if first:
            me.census.stale()
        if first or me.wants_link(record):
            me.soon(now_s, record)

    def try_hint(self, now_s: float, address: str) -> None:
        """An address without an id: dial it while the machine that answers there has no link."""
        me = self._me
        hint = self.hints.get(address)
        if hint is None:
            return
        target = hint.target
        if target.dialing != NOT_DIALING and now_s >= target.dialing_since_s + me.timing.dial_deadline_s:
            self.in_flight.pop(address, None)
            self._hint_failed(now_s, address, hint, LinkLoss.SILENT)
        record = me.peers.get(hint.machine) if hint.machine is not None else None
        linked = record is not None and record.link is not None
        if target.dialing == NOT_DIALING and not linked and now_s >= target.next_dial_s:
            self._dial(now_s, target, None)
        pause_s = me.timing.dial_backoff_pinned_s if linked else me.timing.dial_backoff_s
        me.timers.at(("hint", address), max(now_s + pause_s, target.next_dial_s))

    def _hint_failed(self, now_s: float, address: str, hint: AddressHint, loss: LinkLoss) -> None:
        """A configured address is tried forever; any other is dropped when nobody of the pool is there."""
        me = self._me
        cap_s = me.timing.dial_backoff_pinned_s
        hint.target.failed(now_s, loss, cap_s, me.jitter(), me.timing)
        if not hint.target.pinned and hint.target.failures > 5:
            del self.hints[address]
