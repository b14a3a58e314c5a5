"""How much mDNS may stir this machine: when to send an update, and which received records become dial hints.

Decisions only, with bounds on everything that a flood of announcements could grow or repeat. Time is `now_s`, any
clock that goes forward.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from covey_mesh.core.advertisement import Advertisement
from covey_mesh.core.names import NodeId

CAPACITY_UPDATE_INTERVAL_S = 10.0
"""Free capacity is only interesting to people and newcomers; links carry the exact figure."""

OTHER_UPDATE_INTERVAL_S = 1.0
"""RFC 6762 section 6: a record is not multicast more than once a second."""

REMEMBERED_MAX = 1024
"""Announcements remembered; the longest unheard is forgotten first."""

HINTS_BURST = 64
HINTS_PER_S = 10.0
"""A whole office that is switched on at once passes; a flood is thinned to this."""

SAME_INSTANCE_INTERVAL_S = 1.0
"""Between two hints from one instance name, so that one flapping announcer cannot use up the rate."""


class UpdateGate:
    """Decides when a changed advertisement is multicast: not for every byte of VRAM, not in bursts."""

    def __init__(self) -> None:
        self._sent: Advertisement | None = None
        self._sent_at_s = 0.0

    def sent(self, advertisement: Advertisement, now_s: float) -> None:
        """This one went out."""
        self._sent, self._sent_at_s = advertisement.coarse(), now_s

    def wait_s(self, advertisement: Advertisement, now_s: float) -> float | None:
        """Seconds until this advertisement may go out (0: now); None if it says nothing new."""
        if self._sent is None:
            return 0.0
        coarse = advertisement.coarse()
        if coarse == self._sent:
            return None
        only_capacity = replace(coarse, free_bytes=self._sent.free_bytes) == self._sent
        interval_s = CAPACITY_UPDATE_INTERVAL_S if only_capacity else OTHER_UPDATE_INTERVAL_S
        return max(0.0, self._sent_at_s + interval_s - now_s)


@dataclass(frozen=True, slots=True)
class Hint:
    """Somebody claims that `claimed` answers at one of these HOST:PORT, best first. Only a dial can tell."""

    addresses: tuple[str, ...]
    claimed: NodeId
    advertisement: Advertisement

    def same_place(self, other: Hint) -> bool:
        """True if dialing `other` would be dialing this again: same process, same addresses."""
        return (
            self.claimed == other.claimed
            and self.addresses == other.addresses
            and self.advertisement.incarnation == other.advertisement.incarnation
        )


@dataclass(slots=True)
class _Remembered:
    hint: Hint
    told_at_s: float | None
    pending: bool


class HintBook:
    """Remembers what was announced, by instance name, and says which announcement is worth a dial.

    `heard` then `due`: a hint is due when its place is new, its instance was not told within
    SAME_INSTANCE_INTERVAL_S, and the rate allows. One that must wait stays pending for a later `due`.
    """

    def __init__(self) -> None:
        self._remembered: dict[str, _Remembered] = {}
        self._tokens = float(HINTS_BURST)
        self._refilled_at_s: float | None = None

    def heard(self, instance: str, hint: Hint) -> None:
        """An announcement was received and is well formed."""
        known = self._remembered.pop(instance, None)
        told_at_s = known.told_at_s if known is not None else None
        pending = known is None or known.pending or not known.hint.same_place(hint)
        # Reinserted last: the dictionary's order is the order of hearing.
        self._remembered[instance] = _Remembered(hint, told_at_s, pending)
        if len(self._remembered) > REMEMBERED_MAX:
            self._remembered.pop(next(iter(self._remembered)))

    def gone(self, instance: str) -> None:
        """A goodbye or an expiry. Means "no hint", never "machine gone": anyone can send one."""
        self._remembered.pop(instance, None)

    def due(self, now_s: float) -> list[Hint]:
        """Hints to tell now. Call after `heard` and now and then.

        The last heard goes first: after a flood, a real newcomer does not wait behind what the flood left.
        """
        self._refill(now_s)
        told = []
        for entry in reversed(self._remembered.values()):
            waited = entry.told_at_s is None or now_s - entry.told_at_s >= SAME_INSTANCE_INTERVAL_S
            if not (entry.pending and waited):
                continue
            if self._tokens < 1.0:
                break
            self._tokens -= 1.0
            entry.told_at_s, entry.pending = now_s, False
            told.append(entry.hint)
        return told

    @property
    def pending(self) -> bool:
        """True while a hint waits for its turn: call `due` again within about a second."""
        return any(entry.pending for entry in self._remembered.values())

    def known(self) -> tuple[Hint, ...]:
        """Everything remembered, longest unheard first."""
        return tuple(entry.hint for entry in self._remembered.values())

    def _refill(self, now_s: float) -> None:
        if self._refilled_at_s is not None:
            earned = max(0.0, now_s - self._refilled_at_s) * HINTS_PER_S
            self._tokens = min(float(HINTS_BURST), self._tokens + earned)
        self._refilled_at_s = now_s
