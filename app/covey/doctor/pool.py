"""Judges the pool as this machine's agent sees it. Pure; the JSON is that of the agent's admin routes."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from covey.doctor.finding import Finding, fail, ok, warn
from covey_mesh.core.names import NodeId
from covey_mesh.io.path_probe import PathProbe, Reach


def no_pool(reason: str) -> Finding:
    """This machine's state directory holds no usable identity."""
    return warn("pool", reason, "start one with `covey init`, or join one with `covey join TOKEN`")


def no_agent() -> Finding:
    """Checks of the pool need a running agent."""
    return warn("agent", "not running, so the pool was not looked at", "start it: `covey up`")


def check_pool(
    pool: Mapping[str, Any], why: Mapping[NodeId, PathProbe] | None = None, explained: Container[NodeId] = ()
) -> list[Finding]:
    """Members that cannot be reached, engines that failed, and whether there is a leader.

    `why`: what dialing machines without a link came to. `explained`: machines whose state another finding explains.
    """
    findings = [
        finding
        for member in pool["members"]
        for finding in _check_member(
            member, pool["node_id"], why or {}, NodeId(member["facts"]["node_id"]) in explained
        )
    ]
    if not pool["leader_node_id"]:
        detail = "none right now; requests flow without one"
        fix = "wait 5 s and look again; if it stays, check the machines above that cannot be reached"
        findings.append(warn("leader", detail, fix))
    if not pool["models"]:
        fix = "name one with `covey up --model PATH` on some machine; `covey ps` shows what is starting"
        findings.append(warn("models", "none is ready anywhere in the pool", fix))
    if findings:
        return findings
    return [ok("pool", f"{len(pool['members'])} machines, all reachable; {len(pool['models'])} models ready")]


def _check_member(
    member: Mapping[str, Any], own: str, why: Mapping[NodeId, PathProbe], explained: bool
) -> list[Finding]:
    facts, load = member["facts"], member["load"] or {}
    name = facts["name"] or facts["node_id"][:8]
    findings = [
        fail(f"model {model['model']}", f"on {name}: {model['detail']}", "mend the cause, then restart that agent")
        for model in load.get("models", [])
        if model["state"] in ("failed", "backing_off", "wedged")
    ]
    if facts["node_id"] != own and not member["reachable"] and not explained:
        findings.append(_unreachable(name, member, why.get(facts["node_id"])))
    return findings


def _unreachable(name: str, member: Mapping[str, Any], tried: PathProbe | None) -> Finding:
    """Dialing it says most; where that was not tried, everything that is usual."""
    where = ", ".join(member["facts"]["link_addresses"]) or "no address known"
    silent = f"not reachable for {member['silent_for_s']:.0f} s"
    if tried is None or tried.reach is Reach.SILENT:
        fix = (
            f"if it is switched on: allow TCP to its link port in its firewall ({where}); across VLANs or a VPN, let "
            f"the router pass that port and start one side with `--peer {member['facts']['link_addresses'][0]}`"
            if member["facts"]["link_addresses"]
            else "if it is switched on: start it with --peer HOST:PORT of this machine"
        )
        return warn(f"machine {name}", f"{silent}: no answer at {where}", fix)
    return warn(f"machine {name}", f"{silent}: {_SAID[tried.reach]} at {tried.address}", _FIXES[tried.reach])


_SAID = {
    Reach.REFUSED: "nothing listens",
    Reach.UNTRUSTED: "something answers that is not this machine",
    Reach.FROZEN: "its agent accepts and then says nothing",
    Reach.SMALL: "full packets do not pass",
    Reach.WHOLE: "it can be dialed now, and has no link yet",
}
_FIXES = {
    Reach.REFUSED: "start its agent: `covey up` there; if it runs, see with `covey config` there where `link` listens",
    Reach.UNTRUSTED: "its address has changed or is used twice: run `covey doctor` there",
    Reach.FROZEN: "its process is frozen or overloaded: see `top` there, then restart that agent",
    Reach.SMALL: "lower the MTU there: `ip link set dev INTERFACE mtu 1280`",
    Reach.WHOLE: "wait 5 s and look again; if it stays, run `covey doctor` there",
}
