"""Which pool this machine belongs to: reading its identity, and making a pool where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from covey.errors import ExitCode, UserError
from covey_mesh.io import identity as identities
from covey_mesh.io.identity import Identity, IdentityError, NotInitialisedError
from covey_mesh.io.invitations import DEFAULT_TTL_S, InvitationError, Invitations
from covey_mesh.io.state_files import StateFileError

DEFAULT_POOL_NAME = "covey"


@contextlib.contextmanager
def identity_errors() -> Iterator[None]:
    """Their messages say what to do already."""
    try:
        yield
    except (IdentityError, StateFileError) as error:
        raise UserError(str(error), exit_code=ExitCode.FAILED) from None


def open_or_make(state_dir: Path, pool_name: str = DEFAULT_POOL_NAME) -> tuple[Identity, bool]:
    """The identity kept there, and whether a new pool had to be made for it. Raises UserError."""
    with identity_errors():
        try:
            return identities.load(state_dir), False
        except NotInitialisedError:
            return identities.create_pool(state_dir, pool_name), True


def revoke_invitations(identity: Identity) -> None:
    """No token that was handed out is good any more. Raises UserError."""
    with identity_errors():
        Invitations(identity).revoke_all()


def invitation(identity: Identity, addresses: tuple[str, ...], valid_minutes: float | None) -> dict[str, Any]:
    """A token for one more machine: `token`, `expires_unix_s`. `addresses` are where `enrol` listens.

    Raises UserError.
    """
    with identity_errors():
        made = Invitations(identity)
        ttl_s = DEFAULT_TTL_S if valid_minutes is None else valid_minutes * 60
        try:
            created = made.create(ttl_s)
        except InvitationError as error:
            raise UserError(str(error)) from None
        return {"token": made.token(created, addresses), "expires_unix_s": created.expires_at_unix_s}
