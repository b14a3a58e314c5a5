"""What was measured between two machines, and its JSON. Pure; measuring.py measures, links.py judges.

The JSON crosses links and the agent's own HTTP route: it is read with suspicion, since a peer may send anything.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from covey_mesh.core.names import NodeId, is_id
from covey_mesh.io.path_probe import DETAIL_CHARS_MAX, PathProbe, Reach

ADDRESSES_TRIED_MAX = 4
"""Of one machine; addresses come best first."""

ADDRESS_CHARS_MAX = 300


class BadReportError(ValueError):
    """What a peer sent is no report."""


@dataclass(frozen=True, slots=True)
class Dials:
    """One machine's tries to reach another: its link and data ports, and its gateway where that is open to the
    network."""

    link: tuple[PathProbe, ...] = ()
    gateway: tuple[PathProbe, ...] = ()
    data: tuple[PathProbe, ...] = ()


@dataclass(frozen=True, slots=True)
class PairMeasure:
    """`source` measured `target`. None: could not be measured.

    `round_trip_s` is the shortest of several questions over the link, `skew_s` the target's clock minus the source's
    (off by at most half the round trip). `there` are the source's tries to reach the target, `back` the reverse.
    """

    source: NodeId
    target: NodeId
    round_trip_s: float | None = None
    skew_s: float | None = None
    out_bytes_per_s: float | None = None
    in_bytes_per_s: float | None = None
    there: Dials | None = None
    back: Dials | None = None

    @property
    def linked(self) -> bool:
        """The target answered over the link."""
        return self.round_trip_s is not None


@dataclass(frozen=True, slots=True)
class Heard:
    """A test of multicast between this machine and one on the same network."""

    node_id: NodeId
    here: bool
    """This machine heard the other."""
    there: bool
    """The other heard this machine."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What the agent of one machine found about the links of its pool. `machines`: asked about, of `known`."""

    pairs: tuple[PairMeasure, ...] = ()
    heard: tuple[Heard, ...] = ()
    machines: int = 0
    known: int = 0
    late: int = 0
    """Pairs that were not measured in time."""


def dials_to_json(dials: Dials) -> dict[str, Any]:
    return {name: [_probe_to_json(one) for one in getattr(dials, name)] for name in ("link", "gateway", "data")}


def _probe_to_json(probe: PathProbe) -> dict[str, str]:
    return {"address": probe.address, "reach": probe.reach.value, "detail": probe.detail}


def dials_from_json(value: Any) -> Dials:
    """Raises BadReportError."""
    if not isinstance(value, dict):
        raise BadReportError("dials are no object")
    data = _probes(value.get("data", []))  # an agent of the version before tries none
    return Dials(_probes(value.get("link")), _probes(value.get("gateway")), data)


def _probes(value: Any) -> tuple[PathProbe, ...]:
    if not isinstance(value, list) or len(value) > ADDRESSES_TRIED_MAX:
        raise BadReportError("no list of dials, or one that is too long")
    return tuple(_probe(one) for one in value)


def _probe(value: Any) -> PathProbe:
    if not isinstance(value, dict):
        raise BadReportError("a dial is no object")
    try:
        reach = Reach(value.get("reach"))
    except ValueError:
        raise BadReportError("an unknown result of a dial") from None
    return PathProbe(_text(value, "address", ADDRESS_CHARS_MAX), reach, _text(value, "detail", DETAIL_CHARS_MAX))


def _text(value: Mapping[str, Any], name: str, longest: int) -> str:
    found = value.get(name)
    if not isinstance(found, str) or len(found) > longest or not (found.isprintable() or not found):
        raise BadReportError(f"{name} is no short text")
    return found


_NUMBERS = ("round_trip_s", "skew_s", "out_bytes_per_s", "in_bytes_per_s")


def pair_to_json(pair: PairMeasure) -> dict[str, Any]:
    dials = {name: None if found is None else dials_to_json(found) for name, found in _both(pair)}
    numbers = {name: getattr(pair, name) for name in _NUMBERS}
    return {"source": pair.source, "target": pair.target, **numbers, **dials}


def _both(pair: PairMeasure) -> tuple[tuple[str, Dials | None], ...]:
    return ("there", pair.there), ("back", pair.back)


def pair_from_json(value: Any) -> PairMeasure:
    """Raises BadReportError."""
    if not isinstance(value, dict):
        raise BadReportError("a pair is no object")
    ids = [value.get("source"), value.get("target")]
    if not all(isinstance(one, str) and is_id(one) for one in ids):
        raise BadReportError("a pair without ids")
    numbers = {name: _number(value.get(name)) for name in _NUMBERS}
    there, back = (None if value.get(one) is None else dials_from_json(value[one]) for one in ("there", "back"))
    return PairMeasure(NodeId(str(ids[0])), NodeId(str(ids[1])), **numbers, there=there, back=back)


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadReportError("a figure that is no number")
    return float(value)


def survey_to_json(survey: Survey) -> dict[str, Any]:
    """For the agent's HTTP route and `covey doctor --json`."""
    return {
        "pairs": [pair_to_json(pair) for pair in survey.pairs],
        "heard": [asdict(one) for one in survey.heard],
        "machines": survey.machines,
        "known": survey.known,
        "late": survey.late,
    }


def survey_from_json(value: Mapping[str, Any]) -> Survey:
    """From this machine's own agent. Raises BadReportError."""
    try:
        heard = tuple(Heard(NodeId(one["node_id"]), one["here"], one["there"]) for one in value["heard"])
        pairs = tuple(pair_from_json(one) for one in value["pairs"])
        return Survey(pairs, heard, value["machines"], value["known"], value["late"])
    except (KeyError, TypeError) as error:
        raise BadReportError(f"the agent's survey cannot be read: {error!r}") from error


def read_json(payload: bytes | None) -> Any:
    """A peer's answer; None where there was none. Raises BadReportError."""
    if payload is None:
        return None
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        raise BadReportError("it is not JSON") from None
