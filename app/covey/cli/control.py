"""Commands that change a running agent, and the one that looks for what is wrong: drain, down, doctor."""

from __future__ import annotations

import time

import click

from covey.cli.invocation import Invocation, common_options
from covey.errors import ExitCode, UserError
from covey.running import running_agent

POLL_INTERVAL_S = 0.05
STOP_MARGIN_S = 30.0
"""On top of the grace given to requests: engines need up to 15 s to end."""


@click.command()
@click.option("--undo", is_flag=True, help="Take new requests again.")
@click.option("--grace", "grace_s", type=click.FloatRange(min=0), help="Seconds until what still runs is moved away.")
@common_options
def drain(invocation: Invocation, undo: bool, grace_s: float | None) -> None:
    """Let this machine finish what it has and take nothing new; the pool serves on, also with what was not finished."""
    asked = {"draining": not undo} if grace_s is None else {"draining": not undo, "grace_s": grace_s}
    content = invocation.agent().post("/covey/v1/drain", asked)
    said = "takes requests again" if undo else "takes no new requests; `covey drain --undo` takes that back"
    invocation.show(content, lambda _: f"this machine {said}")


@click.command()
@click.option("--grace", "grace_s", type=click.FloatRange(min=0), help="Seconds for requests in flight (grace_s).")
@common_options
def down(invocation: Invocation, grace_s: float | None) -> None:
    """Stop this machine's agent and its engines: finish requests, hand over leadership, say goodbye."""
    from covey.cli.agent_client import AgentClient

    if invocation.endpoint:
        raise UserError("an agent is stopped on its own machine only", "run `covey down` there", ExitCode.USAGE)
    configuration = invocation.load().configuration
    found = running_agent(configuration.state_dir)
    if found is None:
        invocation.show({"stopped": False, "reason": "not running"}, lambda _: "no covey agent is running here")
        return
    grace = configuration.grace_s if grace_s is None else grace_s
    AgentClient.local(configuration.state_dir).post("/covey/v1/shutdown", {"grace_s": grace})
    deadline = time.monotonic() + grace + STOP_MARGIN_S
    while found.alive():
        if time.monotonic() > deadline:
            raise UserError(f"the agent (process {found.pid}) has not ended in time", f"end it: kill {found.pid}")
        time.sleep(POLL_INTERVAL_S)
    invocation.show({"stopped": True, "pid": found.pid}, lambda _: "stopped")


@click.command()
@click.option("--thorough", is_flag=True, help="Also start the engine once, which takes from 10 s to minutes.")
@common_options
def doctor(invocation: Invocation, thorough: bool) -> None:
    """Look for what is wrong on this machine, its network and its pool, and say what to do about it.

    A running agent also measures the links: latency, bandwidth, clocks, and who can reach whom.
    """
    from covey.doctor.report import examine

    findings = examine(invocation.load().configuration, thorough, invocation.as_json)
    if any(finding.level == "fail" for finding in findings):
        click.get_current_context().exit(int(ExitCode.UNHEALTHY))
