"""How the pool, its models and a decision look to a person. Input: the JSON of the agent's admin routes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]

_STATE_STYLE = {
    "ready": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "wedged": "red",
    "backing_off": "red",
    "failed": "red",
}


def pool_table(pool: Json) -> RenderableType:
    """One row a machine, under a line that says who leads."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("MACHINE", "ID", "STATE", "LINK", "GPU", "MODELS"):
        table.add_column(title, overflow="fold")
    for member in sorted(pool["members"], key=lambda found: (found["facts"]["name"], found["facts"]["node_id"])):
        table.add_row(*_machine_row(member, pool))
    return Group(_headline(pool), Text(), table)


def _headline(pool: Json) -> Text:
    leader = next((m for m in pool["members"] if m["facts"]["node_id"] == pool["leader_node_id"]), None)
    names = f"pool {pool['pool_name'] or pool['pool_id'][:8]}: {_count(len(pool['members']), 'machine')}"
    if leader is None:
        led = "no leader right now; requests flow without one"
    else:
        led = f"led by {leader['facts']['name']} (ballot {pool['ballot']['counter']})"
    queued = f", {_count(pool['queued_requests'], 'request')} queued" if pool.get("queued_requests") else ""
    return Text(f"{names}, {led}{queued}", style="bold")


def _machine_row(member: Json, pool: Json) -> tuple[RenderableType, ...]:
    facts, load = member["facts"], member["load"] or {"gpus": [], "models": [], "draining": False}
    name = Text(facts["name"])
    if facts["node_id"] == pool["leader_node_id"]:
        name.append(" leads", style="cyan")
    if facts["node_id"] == pool["node_id"]:
        name.append(" here", style="dim")
    # 0: not measured (this machine itself, and machines without a link to this one).
    link = f"{member['round_trip_ms']:.1f} ms" if member["round_trip_ms"] else "-"
    return name, Text(facts["node_id"][:8], style="dim"), _state(member, load), link, _gpus(load), _models(load)


def _state(member: Json, load: Json) -> Text:
    if not member["reachable"]:
        return Text(f"silent {member['silent_for_s']:.0f} s", style="red")
    return Text("draining", style="yellow") if load["draining"] else Text("up", style="green")


def _gpus(load: Json) -> Text:
    return Text("\n").join(_gpu(gpu) for gpu in load["gpus"]) if load["gpus"] else Text("CPU only", style="dim")


def _gpu(gpu: Json) -> Text:
    free, total = gpu["memory_free_bytes"] / 2**30, gpu["memory_total_bytes"] / 2**30
    text = f"{gpu['name']}: {free:.1f} of {total:.1f} GiB free"
    if gpu["utilization_percent"] is not None:
        text += f", {gpu['utilization_percent']} % busy"
    return Text(text)


def _models(load: Json) -> Text:
    return Text("\n").join(_model(model) for model in load["models"]) if load["models"] else Text("none", style="dim")


def _model(model: Json) -> Text:
    text = Text(model["model"])
    if model["engine"] == "simulated":
        text.append(" (simulated)", style="magenta")
    text.append(f" {model['state'].replace('_', ' ')}", style=_STATE_STYLE.get(model["state"], "dim"))
    if model["state"] != "ready":
        return text.append(f" {model['detail']}", style="dim") if model["detail"] else text
    text.append(f"  {model['running_requests']}/{model['running_limit']} running")
    if model["waiting_requests"]:
        text.append(f", {model['waiting_requests']} waiting")
    if model["decode_tokens_per_s"]:
        text.append(f", {model['decode_tokens_per_s']:.0f} tokens/s")
    if model["detail"]:
        text.append(f", {model['detail']}", style="dim")
    if model["restarts"]:
        text.append(f", restarted {model['restarts']} times", style="yellow")
    return text


def models_table(pool: Json) -> RenderableType:
    """One row a model that can be asked for now."""
    if not pool["models"]:
        return Text("no model is ready; `covey ps` shows what is starting")
    names = {member["facts"]["node_id"]: member["facts"]["name"] for member in pool["members"]}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("MODEL", "TASK", "CONTEXT", "MACHINES"):
        table.add_column(title, overflow="fold")
    for model in pool["models"]:
        machines = ", ".join(escape(names.get(node, node[:8])) for node in model["node_ids"])
        table.add_row(escape(model["model"]), model["task"], f"{model['max_context_tokens']} tokens", machines)
    return table


def explanation(found: Json, names: Mapping[str, str]) -> RenderableType:
    """Each decision with its candidates, then what became of each attempt."""
    parts: list[RenderableType] = [Text(f"request {found['request_id']}: {_ending(found)}", style="bold")]
    for decision in found["decisions"]:
        parts += [Text(), _decision_line(decision, names), _candidates(decision, names)]
    if found.get("part_of"):
        parts.insert(1, Text(f"a part of {found['part_of']}", style="dim"))
    if found.get("parts"):
        parts += [Text(), _parts(found["parts"], names)]
    for attempt in found["attempts"]:
        name = names.get(attempt["node_id"], attempt["node_id"][:8])
        parts.append(
            Text(
                f"attempt {attempt['attempt']} on {name}: {attempt['outcome']}, first byte after "
                f"{_seconds(attempt['first_byte_s'])}, {_seconds(attempt['total_s'])} in all"
            )
        )
    return Group(*parts)


def _parts(parts: list[Json], names: Mapping[str, str]) -> Table:
    """One row a part of a cut request; each can be explained by its own id."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("  PART", "UNITS", "MACHINE", "STATUS", "TOOK"):
        table.add_column(title, overflow="fold")
    for part in parts:
        units = f"{part['begin']}" if part["end"] - part["begin"] == 1 else f"{part['begin']} to {part['end'] - 1}"
        machine = names.get(part["node_id"], part["node_id"][:8]) or "-"
        status = " ".join(each for each in (str(part["status"] or "running"), part["error"]) if each)
        row = (f"  {part['request_id']}", units, machine, status, _seconds(part.get("total_s")))
        table.add_row(*(escape(cell) for cell in row))
    return table


def _ending(found: Json) -> str:
    if not found["status"]:
        return "still running"
    took = "" if found.get("total_s") is None else f" after {found['total_s']:.3f} s"
    why = f": {found['error']}" if found.get("error") else ""
    return f"answered with status {found['status']}{took}{why}"


def _decision_line(decision: Json, names: Mapping[str, str]) -> Text:
    decider = names.get(decision["decider_node_id"], decision["decider_node_id"][:8])
    chosen = names.get(decision["chosen_node_id"], decision["chosen_node_id"][:8]) or "none"
    when = time.strftime("%H:%M:%S", time.localtime(decision["decided_at_unix_s"]))
    waited = f" after {decision['queued_for_s']:.2f} s in the queue" if decision["queued_for_s"] >= 0.01 else ""
    who = f"under a grant of the leader {decider}"
    if decision["decided_by"] != "grant":
        who = f"decided by the {decision['decided_by']} {decider}"
    return Text(
        f"{when} attempt {decision['attempt']}: {decision['outcome']} to {chosen}{waited}, {who} ({decision['policy']})"
    )


def _candidates(decision: Json, names: Mapping[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in ("  MACHINE", "FIRST TOKEN", "LAST TOKEN", "WHY"):
        table.add_column(title, overflow="fold")
    for verdict in decision["candidates"]:
        name = "  " + escape(names.get(verdict["node_id"], verdict["node_id"][:8]))
        if verdict["rejected_because"]:
            table.add_row(name, "-", "-", f"[red]{escape(verdict['rejected_because'])}")
            continue
        terms = ", ".join(f"{term} {seconds:.3f}" for term, seconds in verdict["terms_s"].items())
        table.add_row(name, _seconds(verdict["first_token_s"]), _seconds(verdict["last_token_s"]), escape(terms))
    return table


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
