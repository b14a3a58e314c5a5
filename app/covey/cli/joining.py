"""Commands that make a pool and bring machines into it: init, invite, join."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from covey.cli.invocation import Invocation, common_options
from covey.errors import UserError
from covey_mesh.core.token import TOKEN_CHARS_MAX

if TYPE_CHECKING:
    from covey.config import Configuration
    from covey_mesh.io.identity import Identity


@click.command()
@click.option("--name", "pool_name", default="covey", show_default=True, help="The pool's name: a-z, 0-9 and -.")
@common_options
def init(invocation: Invocation, pool_name: str) -> None:
    """Make a new pool with this machine as its first."""
    from covey.membership import identity_errors
    from covey_mesh.io.identity import create_pool

    configuration = invocation.load().configuration
    with identity_errors():
        identity = create_pool(configuration.state_dir, pool_name)
    made = _local_invitation(configuration, identity, None)
    invocation.show({**_described(identity), **made}, lambda content: _after_init(content, pool_name))


def _after_init(content: dict[str, Any], pool_name: str) -> str:
    return (
        f"pool {pool_name} made; this machine is its first ({content['node_id'][:8]})\n"
        "next, here:                 covey up --model PATH\n"
        "then, on another machine:   covey join TOKEN, within an hour, with the token\n"
        f"{content['token']}\n"
        "(`covey invite` makes another; whoever has one can join: send it like a password)"
    )


@click.command()
@click.option("--valid", "valid_minutes", type=click.FloatRange(min=1), help="Minutes until it expires. [default: 60]")
@click.option("--revoke-all", is_flag=True, help="Make no token; take back all that were made and not used.")
@common_options
def invite(invocation: Invocation, valid_minutes: float | None, revoke_all: bool) -> None:
    """Make a token for one more machine."""
    if revoke_all:
        _revoke_all(invocation)
    else:
        _invite(invocation, valid_minutes)


def _invite(invocation: Invocation, valid_minutes: float | None) -> None:
    from covey.cli.agent_client import AgentClient
    from covey.membership import identity_errors
    from covey.running import running_agent
    from covey_mesh.io.identity import load

    configuration = invocation.load().configuration
    running = running_agent(configuration.state_dir)
    if running is not None:
        agent = AgentClient.local(configuration.state_dir)
        made = agent.post("/covey/v1/invite", {"valid_minutes": valid_minutes})
    else:
        with identity_errors():
            made = _local_invitation(configuration, load(configuration.state_dir), valid_minutes)
    start = "" if running else "\n(start the agent here first: covey up)"
    invocation.show(made, lambda content: f"on the new machine, once:\ncovey join {content['token']}{start}")


def _revoke_all(invocation: Invocation) -> None:
    """Through the agent where one runs: the file is its own user's."""
    from covey.cli.agent_client import AgentClient
    from covey.membership import identity_errors, revoke_invitations
    from covey.running import running_agent
    from covey_mesh.io.identity import load

    state_dir = invocation.load().configuration.state_dir
    if running_agent(state_dir) is not None:
        AgentClient.local(state_dir).post("/covey/v1/revoke-invitations", {})
    else:
        with identity_errors():
            revoke_invitations(load(state_dir))
    invocation.show({"revoked": True}, lambda _: "every invitation is taken back: no token is good any more")


def _local_invitation(configuration: Configuration, identity: Identity, valid_minutes: float | None) -> dict[str, Any]:
    """Without an agent: the addresses are those that it will have with this configuration."""
    from covey.membership import invitation
    from covey.reach import reachable
    from covey.setting import split_address
    from covey_mesh.io.interfaces import read_interfaces

    _, port = split_address(configuration.enrol)
    where = reachable(configuration.enrol, port, configuration.advertise, read_interfaces())
    return invitation(identity, where, valid_minutes)


@click.command()
@click.argument("token")
@click.option("--force", is_flag=True, help="Leave the pool that this machine is in.")
@common_options
def join(invocation: Invocation, token: str, force: bool) -> None:
    """Bring this machine into the pool that TOKEN is from (`covey invite` there prints one).

    A token on the command line can be seen by this machine's other users while the command runs; `-` reads it from
    standard input instead.
    """
    import asyncio

    from covey.running import running_agent

    configuration = invocation.load().configuration
    if running_agent(configuration.state_dir) is not None:
        raise UserError("the agent of this machine is running", "stop it first: covey down")
    token = _read_token() if token == "-" else token
    identity = asyncio.run(_join(token, configuration.state_dir, configuration.name, force))
    name = identity.pool_name
    invocation.show(_described(identity), lambda _: f"this machine is in pool {name} now\nnext: covey up --model PATH")


def _read_token() -> str:
    """From a pipe, or asked for without showing it."""
    if sys.stdin.isatty():
        return str(click.prompt("token", hide_input=True, err=True))
    return sys.stdin.readline(TOKEN_CHARS_MAX + 2)


async def _join(token: str, state_dir: Path, name: str, force: bool) -> Identity:
    from covey.membership import identity_errors
    from covey_mesh.core.token import TokenError
    from covey_mesh.io.join import JoinError
    from covey_mesh.io.join import join as enrol

    with identity_errors():
        try:
            return await enrol(token, state_dir, name, lambda text: click.echo(text, err=True), force)
        except (JoinError, TokenError) as error:
            raise UserError(str(error)) from None


def _described(identity: Identity) -> dict[str, Any]:
    return {
        "pool_id": identity.pool_id,
        "pool_name": identity.pool_name,
        "node_id": identity.node_id,
        "state_dir": str(identity.state_dir),
    }
