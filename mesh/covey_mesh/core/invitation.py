"""What an outstanding invitation still allows. Pure: takes the time, returns the next state or the reason against it.

A use is bound to a public key: the same machine asking again with the same key (its first answer was lost) is
answered again and uses nothing up, so a recorded request that is played again gains nothing. Not here: files, secrets
in messages (io/enrolment_messages.py), the network.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

OUTSTANDING_MAX = 64
"""Invitations open at once."""

USES_MAX = 256
TTL_S_MAX = 7 * 86_400.0
ATTEMPTS_MAX = 100
"""Requests with this token's id and a wrong proof; then the invitation is closed. 128 bits cannot be guessed in 100
tries or in 2^60; the bound keeps a broken or hostile client from going on for hours."""

REMEMBERED_S = 3600.0
"""How long a spent or expired invitation is kept, to tell its late users why."""


class Refusal(enum.Enum):
    """Why a request with a valid proof gets no certificate. Told to its holder alone."""

    EXPIRED = "expired"
    USED = "used"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Invitation:
    """`secret_hex` is what the token holds; `used_by` are the ids of the machines enrolled with it."""

    token_id: str
    secret_hex: str = field(repr=False)
    expires_at_unix_s: float
    uses: int = 1
    used_by: tuple[str, ...] = ()
    failed_attempts: int = 0

    def outstanding(self, now_s: float) -> bool:
        """True while a new machine may still join with it."""
        return self.refusal_for("", now_s) is None

    def refusal_for(self, node_id: str, now_s: float) -> Refusal | None:
        """None if that machine may have a certificate now."""
        if now_s >= self.expires_at_unix_s or self.failed_attempts >= ATTEMPTS_MAX:
            return Refusal.EXPIRED
        if node_id not in self.used_by and len(self.used_by) >= self.uses:
            return Refusal.USED
        return None

    def with_use(self, node_id: str) -> Invitation:
        """After a certificate for that machine."""
        return self if node_id in self.used_by else replace(self, used_by=(*self.used_by, node_id))

    def with_failure(self) -> Invitation:
        """After a wrong proof."""
        return replace(self, failed_attempts=self.failed_attempts + 1)

    def forgettable(self, now_s: float) -> bool:
        """True once nobody can learn anything from it any more."""
        return now_s >= self.expires_at_unix_s + REMEMBERED_S


def remembered(invitations: tuple[Invitation, ...], now_s: float) -> tuple[Invitation, ...]:
    """Those worth keeping, the newest of them if there are too many."""
    kept = [invitation for invitation in invitations if not invitation.forgettable(now_s)]
    return tuple(kept[-2 * OUTSTANDING_MAX :])
