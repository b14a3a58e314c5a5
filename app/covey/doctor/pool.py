"""Judges the pool as this machine's agent sees it. Pure; the JSON is that of the agent's admin routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from covey.doctor.finding import Finding, fail, ok, warn

ROUND_TRIP_WARN_MS = 50.0
"""An office network answers within a few; beyond this, tokens from another machine come visibly late."""


def no_pool(reason: str) -> Finding:
    """This machine's state directory holds no usable identity."""
    return warn("pool", reason, "start one with `covey init`, or join one with `covey join TOKEN`")


def no_agent() -> Finding:
    """Checks of the pool need a running agent."""
    return warn("agent", "not running, so the pool was not looked at", "start it: `covey up`")


def check_pool(pool: Mapping[str, Any]) -> list[Finding]:
    """Members that cannot be reached, links that are slow, engines that failed, and whether there is a leader."""
    findings = [finding for member in pool["members"] for finding in _check_member(member, pool["node_id"])]
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


def _check_member(member: Mapping[str, Any], own: str) -> list[Finding]:
    facts, name = member["facts"], member["facts"]["name"] or member["facts"]["node_id"][:8]
    findings = [
        fail(f"model {model['model']}", f"on {name}: {model['detail']}", "mend the cause, then restart that agent")
        for model in member["load"]["models"]
        if model["state"] in ("failed", "backing_off")
    ]
    if facts["node_id"] == own:
        return findings
    if not member["reachable"]:
        where = ", ".join(facts["link_addresses"]) or "no address known"
        fix = (
            f"if it is switched on: allow TCP to its link port in its firewall ({where}); across VLANs or a VPN, "
            "start one side with --peer HOST:PORT of the other"
        )
        findings.append(warn(f"machine {name}", f"not reachable for {member['silent_for_s']:.0f} s", fix))
    elif member["round_trip_ms"] > ROUND_TRIP_WARN_MS:
        detail = f"answers after {member['round_trip_ms']:.0f} ms"
        findings.append(warn(f"machine {name}", detail, "prefer a cable to Wi-Fi; nearer machines are asked first"))
    return findings
