"""Invitations on disk, on a keeper: made by the command line, used by the agent's enrolment port.

One file, invitations.json (0600), guarded by a lock so that both processes may write. Expiry is by the wall clock,
since it must survive restarts; a clock set back lengthens an invitation by as much. Not here: the rules
(covey_mesh.core.invitation), the network (enrolment_port.py).
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict

from covey_mesh.core.invitation import (
    ATTEMPTS_MAX,
    OUTSTANDING_MAX,
    TTL_S_MAX,
    USES_MAX,
    Invitation,
    Refusal,
    remembered,
)
from covey_mesh.core.token import SECRET_BYTES, TOKEN_ID_BYTES, Token
from covey_mesh.io.identity import Identity, load_authority
from covey_mesh.io.state_files import SECRET_MODE, StateFileError, locked, read_secret, write_atomically

DEFAULT_TTL_S = 3600.0


class InvitationError(Exception):
    """No invitation was made; the message says what to do."""


class Invitations:
    """Raises IdentityError when made on a machine that does not hold the pool's CA key."""

    def __init__(self, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        load_authority(identity.state_dir)
        self._identity = identity
        self._clock = clock
        self._path = identity.state_dir / "invitations.json"

    def create(self, ttl_s: float = DEFAULT_TTL_S, uses: int = 1) -> Invitation:
        """Raises InvitationError, PermissionsError."""
        if not 0 < ttl_s <= TTL_S_MAX or not 0 < uses <= USES_MAX:
            raise InvitationError(f"an invitation lasts up to {TTL_S_MAX / 86_400:.0f} days, for 1 to {USES_MAX} uses")
        made = Invitation(
            token_id=secrets.token_hex(TOKEN_ID_BYTES),
            secret_hex=secrets.token_hex(SECRET_BYTES),
            expires_at_unix_s=self._clock() + ttl_s,
            uses=uses,
        )
        with locked(self._identity.state_dir, "invitations"):
            kept = self._read()
            if sum(1 for invitation in kept if invitation.outstanding(self._clock())) >= OUTSTANDING_MAX:
                raise InvitationError(
                    f"{OUTSTANDING_MAX} invitations are open: wait for some to expire, or take them back "
                    "with `covey invite --revoke-all`"
                )
            self._write((*kept, made))
        return made

    def token(self, invitation: Invitation, addresses: tuple[str, ...]) -> str:
        """The string to hand out; `addresses` are HOST:PORT of this keeper's enrolment port, best first."""
        secret = bytes.fromhex(invitation.secret_hex)
        return Token(self._identity.pool_id, invitation.token_id, secret, addresses).encode()

    def any_outstanding(self) -> bool:
        now_s = self._clock()
        return any(invitation.outstanding(now_s) for invitation in self._read())

    def find(self, token_id: str) -> Invitation | None:
        """Spent and expired ones too, for a while."""
        return next((invitation for invitation in self._read() if invitation.token_id == token_id), None)

    def use(self, token_id: str, node_id: str) -> Refusal | None:
        """Count that machine's enrolment, on disk before this returns; None if it may have its certificate."""
        with locked(self._identity.state_dir, "invitations"):
            found = self.find(token_id)
            if found is None:
                return Refusal.EXPIRED
            refusal = found.refusal_for(node_id, self._clock())
            if refusal is None:
                self._replace(found.with_use(node_id))
            return refusal

    def count_failure(self, token_id: str) -> None:
        """A request named this token without proof of knowing it."""
        with locked(self._identity.state_dir, "invitations"):
            found = self.find(token_id)
            if found is not None and found.failed_attempts < ATTEMPTS_MAX:
                self._replace(found.with_failure())

    def revoke_all(self) -> None:
        """Take back everything outstanding."""
        with locked(self._identity.state_dir, "invitations"):
            self._write(())

    def _replace(self, changed: Invitation) -> None:
        self._write(tuple(changed if i.token_id == changed.token_id else i for i in self._read()))

    def _read(self) -> tuple[Invitation, ...]:
        """Raises StateFileError for a damaged file: better to invite nobody than anybody."""
        try:
            entries = json.loads(read_secret(self._path))
            return tuple(Invitation(**{**entry, "used_by": tuple(entry["used_by"])}) for entry in entries)
        except FileNotFoundError:
            return ()
        except (ValueError, TypeError, KeyError) as error:
            raise StateFileError(f"{self._path} is damaged: remove it, and invite again") from error

    def _write(self, invitations: tuple[Invitation, ...]) -> None:
        entries = [asdict(invitation) for invitation in remembered(invitations, self._clock())]
        write_atomically(self._path, json.dumps(entries, indent=2).encode() + b"\n", SECRET_MODE)
