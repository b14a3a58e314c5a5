"""The pool's name `<pool>.local`: which questions to answer, when, and with what. Decisions only.

Every live gateway answers for the same name, so the records are *shared* in the sense of RFC 6762 section 2: no
probing, no cache-flush bit (it would make each machine's answer displace the others'), a random delay before an
answer, and a goodbye when a gateway stops. The time to live is short, because a machine that dies says no goodbye.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

POOL_NAME_TTL_S = 10
"""How long a client may go on trying a machine that died. Below it, clients ask again at 80 % of this time."""

ANSWER_DELAY_MIN_S = 0.02
ANSWER_DELAY_MAX_S = 0.12
"""RFC 6762 section 6: several machines answer, and must not all at the same moment."""

MULTICAST_INTERVAL_S = 1.0
"""RFC 6762 section 6: a record is multicast on one interface at most once a second."""

UNICAST_ANSWERS_PER_S = 10.0
"""To plain DNS clients that do not speak mDNS; their source address may be forged, so the rate is bounded."""

ANNOUNCEMENTS = 2
"""RFC 6762 section 8.3: at least two, a second apart."""

TYPE_A = 1
TYPE_AAAA = 28
TYPE_ANY = 255

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def pool_host(pool_name: str) -> str:
    """The DNS name of a pool: "covey" -> "covey.local."; ValueError for what cannot be a host name's label."""
    label = pool_name.strip().lower()
    if not _LABEL.fullmatch(label):
        raise ValueError(
            f"{pool_name!r} cannot be a pool's name: use 1 to 63 letters, digits and hyphens, no hyphen at either end"
        )
    return f"{label}.local."


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a query. `types` as in DNS."""

    name: str
    type: int


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A record that the asker already has, with the time it has left there."""

    name: str
    address: str
    ttl_s: float


class PoolNameAnswers:
    """When to multicast this machine's records on one interface."""

    def __init__(self, host: str) -> None:
        self._host = host.lower()
        self._addresses: tuple[str, ...] = ()
        self._announcements_left = 0
        self._due_at_s: float | None = None
        self._sent_at_s: float | None = None
        self._unicast_tokens = UNICAST_ANSWERS_PER_S
        self._unicast_at_s: float | None = None

    @property
    def addresses(self) -> tuple[str, ...]:
        """What is answered here; empty: nothing is."""
        return self._addresses

    def set_addresses(self, addresses: Iterable[str], now_s: float) -> tuple[str, ...]:
        """Answer with these from now on and announce them. Returns the addresses to say goodbye for."""
        wanted = tuple(addresses)
        gone = tuple(address for address in self._addresses if address not in wanted)
        self._addresses = wanted
        if wanted:
            self._announcements_left = ANNOUNCEMENTS
            self._due_at_s = now_s
        else:
            self._announcements_left, self._due_at_s = 0, None
        return gone

    def asks_for_us(self, questions: Iterable[Question], known: Iterable[KnownAnswer]) -> bool:
        """True if the query asks for our name and does not list all our records as known (RFC 6762 section 7.1)."""
        asked = {one.type for one in questions if one.name.lower() == self._host}
        wanted = {a for a in self._addresses if asked & {TYPE_ANY, TYPE_AAAA if ":" in a else TYPE_A}}
        fresh = {one.address for one in known if one.name.lower() == self._host and one.ttl_s >= POOL_NAME_TTL_S / 2}
        return bool(wanted - fresh)

    def asked(self, now_s: float, chance: float) -> None:
        """A query for our name came. `chance` in [0, 1) spreads the machines' answers."""
        at_s = now_s + ANSWER_DELAY_MIN_S + chance * (ANSWER_DELAY_MAX_S - ANSWER_DELAY_MIN_S)
        if self._sent_at_s is not None:
            at_s = max(at_s, self._sent_at_s + MULTICAST_INTERVAL_S)
        self._due_at_s = at_s if self._due_at_s is None else min(at_s, self._due_at_s)

    def asked_by_unicast(self, now_s: float) -> bool:
        """A plain DNS client asked. True if it may be answered, at once and directly."""
        if self._unicast_at_s is not None:
            earned = max(0.0, now_s - self._unicast_at_s) * UNICAST_ANSWERS_PER_S
            self._unicast_tokens = min(UNICAST_ANSWERS_PER_S, self._unicast_tokens + earned)
        self._unicast_at_s = now_s
        if self._unicast_tokens < 1.0:
            return False
        self._unicast_tokens -= 1.0
        return True

    def due_at_s(self) -> float | None:
        """When to call `sent` next; None: nothing is to be sent."""
        return self._due_at_s

    def sent(self, now_s: float) -> None:
        """All records were multicast now."""
        self._sent_at_s, self._due_at_s = now_s, None
        self._announcements_left = max(0, self._announcements_left - 1)
        if self._announcements_left:
            self._due_at_s = now_s + MULTICAST_INTERVAL_S
