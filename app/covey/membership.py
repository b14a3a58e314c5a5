"""Which pool this machine belongs to: reading its identity, and making a pool where there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from covey.errors import ExitCode, UserError
from covey_mesh.io import identity as identities
from covey_mesh.io.identity import Identity, IdentityError, NotInitialisedError
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
