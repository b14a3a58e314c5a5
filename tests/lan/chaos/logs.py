"""What agents' own logs say of leadership: who followed whom, when, under which ballot. Pure, from JSON lines."""

from __future__ import annotations

import calendar
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Followed:
    """From `at_s` (Unix) on a machine followed `leader` ("": nobody) under a ballot with this counter."""

    at_s: float
    leader: str
    counter: int


@dataclass(frozen=True, slots=True)
class LinkLost:
    """At `at_s` (Unix) a machine noticed that its link to `peer` is gone; `loss` says how."""

    at_s: float
    peer: str
    loss: str


def records(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The JSON records among a log's lines, in order."""
    found = []
    for line in lines:
        if line.startswith("{"):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return found


def followed(found: Iterable[dict[str, Any]]) -> list[Followed]:
    return [
        Followed(unix_s(record["time"]), record.get("leader") or "", int(record.get("counter", 0)))
        for record in found
        if str(record.get("message", "")).startswith("leader: ")
    ]


def links_lost(found: Iterable[dict[str, Any]]) -> list[LinkLost]:
    return [
        LinkLost(unix_s(record["time"]), str(record["peer"]), str(record["loss"]))
        for record in found
        if record.get("message") == "link lost"
    ]


def errors(found: Iterable[dict[str, Any]]) -> list[str]:
    """What an agent itself calls an error: our own bugs among it."""
    return [
        f"{record['message']}: {str(record.get('exception', ''))[-400:]}"
        for record in found
        if record.get("level") in ("error", "critical")
    ]


def unix_s(moment: str) -> float:
    """Of `2026-01-02T03:04:05.678Z`."""
    whole, _, thousandths = moment.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S")) + int(thousandths or 0) / 1000


def leaderless_s(changes: Iterable[Followed]) -> list[tuple[float, float]]:
    """(since when, for how long) of each time that a machine lost a leader and found one."""
    gaps: list[tuple[float, float]] = []
    lost_s: float | None = None
    for change in changes:
        if not change.leader:
            lost_s = change.at_s if lost_s is None else lost_s
        elif lost_s is not None:
            gaps.append((lost_s, change.at_s - lost_s))
            lost_s = None
    return gaps


def ballots_fell(changes: Iterable[Followed]) -> list[str]:
    """Times that a machine followed a lower ballot than one that it had followed before (property S1)."""
    fell, highest = [], (0, "")
    for change in changes:
        ballot = (change.counter, change.leader)
        if change.leader and ballot < highest:
            fell.append(f"followed ballot {ballot[0]} of {ballot[1][:8]} after {highest[0]} of {highest[1][:8]}")
        if change.leader:
            highest = max(highest, ballot)
    return fell
