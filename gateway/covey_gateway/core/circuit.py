"""A circuit breaker for each machine and model: who let answers stall is left alone for a while, then tried by one.

    CLOSED --(STALLS_MAX stalls within WINDOW_S)--> OPEN --(its pause is over)--> HALF OPEN --(a byte)--> CLOSED
                                                     ^------------(the probe stalls: twice the pause)----+

Each gateway judges by its own requests. Source: M. Nygard, "Release It!", 2007, "Circuit Breaker".
Only silence counts: failures that are told (a refusal, a dead engine) are handled by whoever was told.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from covey_mesh.core.names import NodeId

STALLS_MAX = 2
WINDOW_S = 60.0
PAUSE_FIRST_S = 5.0
PAUSE_MAX_S = 120.0
PROBE_S = 1.0
"""When to come back while one request is trying a machine: its answer is about to tell."""

CIRCUITS_MAX = 1024
"""Circuits remembered, the oldest forgotten first; only machines that ever stalled have one."""


@dataclass(slots=True)
class _Circuit:
    stalls_at_s: list[float] = field(default_factory=list)
    open_until_s: float | None = None
    pause_s: float = PAUSE_FIRST_S
    probing: bool = False


class CircuitBreaker:
    """Times are readings of the injected clock, in seconds."""

    def __init__(self) -> None:
        self._circuits: OrderedDict[tuple[NodeId, str], _Circuit] = OrderedDict()

    def stalled(self, now_s: float, node_id: NodeId, model: str) -> bool:
        """An attempt went silent. True if that opened the circuit."""
        circuit = self._circuits.setdefault((node_id, model), _Circuit())
        if len(self._circuits) > CIRCUITS_MAX:
            self._circuits.popitem(last=False)
        if circuit.open_until_s is not None and not circuit.probing:
            return False
        recent = [at_s for at_s in circuit.stalls_at_s if now_s - at_s < WINDOW_S]
        circuit.stalls_at_s = [*recent[-STALLS_MAX:], now_s]
        if not circuit.probing and len(circuit.stalls_at_s) < STALLS_MAX:
            return False
        if circuit.probing:
            circuit.pause_s = min(PAUSE_MAX_S, 2 * circuit.pause_s)
        circuit.probing = False
        circuit.open_until_s = now_s + circuit.pause_s
        return True

    def opened(self, now_s: float, node_id: NodeId, model: str) -> None:
        """An attempt begins there: where the pause is over, it is the probe."""
        circuit = self._circuits.get((node_id, model))
        if circuit is not None and circuit.open_until_s is not None and now_s >= circuit.open_until_s:
            circuit.probing = True

    def answered(self, node_id: NodeId, model: str) -> None:
        """The first byte of an attempt: closes a half-open circuit."""
        circuit = self._circuits.get((node_id, model))
        if circuit is not None and circuit.probing:
            del self._circuits[node_id, model]

    def ended(self, now_s: float, node_id: NodeId, model: str) -> None:
        """An attempt ended without a byte and without a stall: a probe that told nothing; the next one may try."""
        circuit = self._circuits.get((node_id, model))
        if circuit is not None and circuit.probing:
            circuit.probing = False
            circuit.open_until_s = now_s

    def doubts(self, node_id: NodeId, model: str) -> bool:
        """Left alone, or not yet proved fit again."""
        circuit = self._circuits.get((node_id, model))
        return circuit is not None and circuit.open_until_s is not None

    def reopens_s(self, now_s: float, model: str) -> float:
        """Seconds until the first machine left out for this model is tried again; 0 if none is."""
        waits = [
            PROBE_S if circuit.probing else circuit.open_until_s - now_s
            for (_, name), circuit in self._circuits.items()
            if name == model and circuit.open_until_s is not None and (circuit.probing or now_s < circuit.open_until_s)
        ]
        return min(waits, default=0.0)

    def excluded(self, now_s: float, model: str) -> dict[NodeId, str]:
        """Machines to leave out, with the reason for people."""
        if not self._circuits:
            return {}
        found: dict[NodeId, str] = {}
        for (node_id, name), circuit in self._circuits.items():
            if name != model or circuit.open_until_s is None:
                continue
            if circuit.probing:
                found[node_id] = "its answers stalled; one request is trying it"
            elif now_s < circuit.open_until_s:
                found[node_id] = f"its answers stalled; tried again in {circuit.open_until_s - now_s:.0f} s"
        return found
