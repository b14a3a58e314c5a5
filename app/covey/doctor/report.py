"""Runs every check in the order in which a person should read it, and draws the result.

Not here: any judgement (machine.py, network.py, pool.py) and any reading of the system (machine_facts.py, probes.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.cli.agent_client import AgentClient
from covey.config import VLLM, Configuration
from covey.doctor import machine, network, pool, probes
from covey.doctor.etcd import check_etcd
from covey.doctor.finding import Finding, fail, ok, warn
from covey.doctor.machine_facts import read_machine
from covey.errors import UserError
from covey.running import running_agent
from covey.settings import Loaded
from covey_mesh.core.addresses import usable_addresses
from covey_mesh.io import identity
from covey_mesh.io.identity import Identity, IdentityError, NotInitialisedError
from covey_mesh.io.interfaces import read_interfaces
from covey_mesh.io.state_files import StateFileError

if TYPE_CHECKING:
    from rich.console import RenderableType

_MARKS = {"ok": ("ok", "green"), "warn": ("warning", "yellow"), "fail": ("problem", "red")}


def run_checks(loaded: Loaded) -> list[dict[str, str]]:
    """Every finding as JSON: `level` ("ok", "warn", "fail"), `title`, `detail`, `fix`. Takes some seconds."""
    return [finding.as_json() for finding in check_all(loaded.configuration)]


def check_all(configuration: Configuration) -> list[Finding]:
    """Machine, network, pool."""
    uses_vllm = configuration.engine == VLLM
    findings = machine.check_machine(read_machine(configuration.state_dir, uses_vllm), configuration.engine)
    member, identity_findings = _identity(configuration.state_dir)
    findings += identity_findings
    state = _pool_state(configuration.state_dir)
    findings += _check_network(configuration, member, state)
    if state is not None:
        findings += pool.check_pool(state)
    elif member is not None:
        findings.append(pool.no_agent())
    return findings


def _identity(state_dir: Path) -> tuple[Identity | None, list[Finding]]:
    try:
        member = identity.load(state_dir)
    except NotInitialisedError:
        return None, [pool.no_pool("this machine is in no pool yet")]
    except IdentityError as error:
        return None, [pool.no_pool(str(error))]
    except StateFileError as error:
        return None, [fail("identity", str(error), "mend that file's owner and mode, or restore it from a backup")]
    return member, [ok("identity", f"machine {member.node_id[:8]} of pool {member.pool_name}")]


def _pool_state(state_dir: Path) -> dict[str, Any] | None:
    """What the running agent knows; None without one."""
    if running_agent(state_dir) is None:
        return None
    try:
        state: dict[str, Any] = AgentClient.local(state_dir).get("/covey/v1/pool")
    except UserError:
        return None
    return state


def _check_network(
    configuration: Configuration, member: Identity | None, state: dict[str, Any] | None
) -> Iterator[Finding]:
    found = read_interfaces()
    usable = usable_addresses(found)
    yield from network.check_addresses(found)
    if configuration.mdns:
        yield from network.check_multicast(probes.probe_multicast(usable))
        yield from _check_names(configuration, member, [one.address for one in found])
    listens = {"http": configuration.http, "grpc": configuration.grpc, "link": configuration.link}
    yield from network.check_ports(probes.probe_ports(listens), state is not None)
    if member is not None and state is not None:
        gateways = [_host(address) for one in state["members"] for address in one["facts"]["gateway_addresses"]]
        if gateways:
            host = f"{member.pool_name}.local"
            yield network.check_pool_name(host, asyncio.run(probes.resolve(host)), gateways)
    if configuration.etcd_endpoints:
        yield from check_etcd(configuration, member.pool_id if member is not None else None)
    yield from network.check_clock(time.time(), probes.clock_synchronized(), {})


def _check_names(configuration: Configuration, member: Identity | None, own_hosts: list[str]) -> list[Finding]:
    own = member.node_id if member is not None else None
    try:
        seen = asyncio.run(probes.browse(usable_addresses(read_interfaces())))
    except OSError as error:
        fix = "end or configure the program that holds UDP port 5353: `ss -ulnp 'sport = :5353'`"
        return [warn("mDNS", f"cannot listen to announcements: {error}", fix)]
    return network.check_names(own, configuration.name, own_hosts, seen)


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def findings_table(findings: list[dict[str, str]]) -> RenderableType:
    """Problems first, each with its fix below it."""
    from rich.markup import escape
    from rich.table import Table

    order = list(reversed(_MARKS))
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        table.add_column(overflow="fold")
    for finding in sorted(findings, key=lambda one: order.index(one["level"])):
        word, colour = _MARKS[finding["level"]]
        fix = f"\n[dim]-> {escape(finding['fix'])}[/dim]" if finding["fix"] else ""
        table.add_row(f"[{colour}]{word}[/{colour}]", escape(finding["title"]), escape(finding["detail"]) + fix)
    return table
