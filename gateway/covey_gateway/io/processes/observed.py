"""What a gateway process saw of its requests, told to its agent: counters and histograms are kept in one place, so that
/metrics is of the whole agent whichever process is asked, and a process that crashes takes no count with it.

One small value a call of covey_gateway.core.observer.Observer, a few for each request and none for a token; they leave
together with whatever leaves next, or after OBSERVED_WITHIN_S. Not here: the metrics themselves (io/metrics.py).
"""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite
from typing import Protocol

import msgspec

from covey_gateway.core import errors
from covey_gateway.core.observer import CONTINUATIONS, Observer, RequestSummary
from covey_gateway.core.paths import ENGINE_PATHS
from covey_mesh.core.exchange import FailureCode
from covey_mesh.core.names import NodeId
from covey_mesh.io.codec_values import TEXT_CHARS_MAX, PeerProtocolError

OBSERVED_WITHIN_S = 0.1
"""Longest that a figure is late."""

LAGS_HELD_MAX = 64
"""Looks at the event loop that wait for an occasion to leave; more are not counted."""

REASONS = frozenset({*(code.value for code in errors.Code), *(code.value for code in FailureCode)})
"""What `retried` and `refused` may say: the label's whole set of values."""

_PATHS = frozenset(ENGINE_PATHS)


class _Event(msgspec.Struct, array_like=True, tag=True):
    def tell(self, observer: GatewayObserver) -> None:
        raise NotImplementedError

    def sound(self) -> bool:
        """False where a label or a number is none that this build makes."""
        return True


class RequestStarted(_Event):
    path: str
    model: str

    def tell(self, observer: GatewayObserver) -> None:
        observer.request_started(self.path, self.model)

    def sound(self) -> bool:
        return self.path in _PATHS and len(self.model) <= TEXT_CHARS_MAX


class FirstByte(_Event):
    model: str
    node_id: str
    seconds: float

    def tell(self, observer: GatewayObserver) -> None:
        observer.first_byte(self.model, NodeId(self.node_id), self.seconds)

    def sound(self) -> bool:
        return _named(self.model, self.node_id) and _time(self.seconds)


class Finished(_Event):
    summary: RequestSummary
    part: bool = False

    def tell(self, observer: GatewayObserver) -> None:
        if self.part:
            observer.part_finished(self.summary)
        else:
            observer.finished(self.summary)

    def sound(self) -> bool:
        one = self.summary
        counts = (one.chunks, one.prompt_tokens, one.output_tokens, one.attempts, one.continued)
        return (
            one.path in _PATHS
            and 100 <= one.status <= 599
            and _named(one.model, one.node_id or "")
            and _time(one.seconds)
            and (one.first_byte_s is None or _time(one.first_byte_s))
            and min(counts) >= 0
        )


class Straight(_Event):
    path: str
    model: str
    node_id: str
    seconds: float
    prompt_tokens: int
    output_tokens: int

    def tell(self, observer: GatewayObserver) -> None:
        node_id = NodeId(self.node_id)
        observer.straight(self.path, self.model, node_id, self.seconds, self.prompt_tokens, self.output_tokens)

    def sound(self) -> bool:
        known = self.path in _PATHS and _named(self.model, self.node_id)
        return known and _time(self.seconds) and self.prompt_tokens >= 0 and self.output_tokens >= 0


class Retried(_Event):
    reason: str

    def tell(self, observer: GatewayObserver) -> None:
        observer.retried(self.reason)

    def sound(self) -> bool:
        return self.reason in REASONS


class Refused(_Event):
    reason: str

    def tell(self, observer: GatewayObserver) -> None:
        observer.refused(self.reason)

    def sound(self) -> bool:
        return self.reason in REASONS


class StreamBroke(_Event):
    outcome: str
    pause_s: float | None

    def tell(self, observer: GatewayObserver) -> None:
        observer.stream_broke(self.outcome, self.pause_s)

    def sound(self) -> bool:
        return self.outcome in CONTINUATIONS and (self.pause_s is None or _time(self.pause_s))


class Stalled(_Event):
    model: str
    node_id: str
    opened: bool

    def tell(self, observer: GatewayObserver) -> None:
        observer.stalled(self.model, NodeId(self.node_id), self.opened)

    def sound(self) -> bool:
        return _named(self.model, self.node_id)


class AskTimedOut(_Event):
    def tell(self, observer: GatewayObserver) -> None:
        observer.ask_timed_out()


class DecidedAlone(_Event):
    def tell(self, observer: GatewayObserver) -> None:
        observer.decided_alone()


class RequestCut(_Event):
    path: str
    parts: int

    def tell(self, observer: GatewayObserver) -> None:
        observer.request_cut(self.path, self.parts)

    def sound(self) -> bool:
        return self.path in _PATHS and self.parts >= 0


class LoopLagged(_Event):
    seconds: float

    def tell(self, observer: GatewayObserver) -> None:
        observer.loop_lagged(self.seconds)

    def sound(self) -> bool:
        return _time(self.seconds)


Event = (
    RequestStarted
    | FirstByte
    | Finished
    | Straight
    | Retried
    | Refused
    | StreamBroke
    | Stalled
    | AskTimedOut
    | DecidedAlone
    | RequestCut
    | LoopLagged
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(list[Event])


class GatewayObserver(Observer, Protocol):
    """An Observer that also takes the loop's lag (covey_gateway.io.metrics.GatewayMetrics)."""

    def loop_lagged(self, seconds: float) -> None: ...


def read_events(raw: bytes) -> list[Event]:
    """Raises PeerProtocolError for anything that this build does not write."""
    try:
        events = _DECODER.decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise PeerProtocolError(f"events that cannot be read: {error}") from None
    for event in events:
        if not event.sound():
            raise PeerProtocolError(f"an event that nobody can have seen: {type(event).__name__}")
    return events


class ObservedElsewhere:
    """The Observer of a gateway process. `due` is called when something is held that was not before."""

    def __init__(self, due: Callable[[], None]) -> None:
        self._due = due
        self._events: list[Event] = []
        self._told = False

    def take(self) -> bytes:
        """Everything held, in order; empty if nothing is."""
        self._told = False
        if not self._events:
            return b""
        raw = _ENCODER.encode(self._events)
        self._events.clear()
        return raw

    def _hold(self, event: Event) -> None:
        self._events.append(event)
        if not self._told:
            self._told = True
            self._due()

    def request_started(self, path: str, model: str) -> None:
        self._hold(RequestStarted(path, model))

    def first_byte(self, model: str, node_id: NodeId, seconds: float) -> None:
        self._hold(FirstByte(model, node_id, seconds))

    def finished(self, summary: RequestSummary) -> None:
        self._hold(Finished(summary))

    def straight(
        self, path: str, model: str, node_id: NodeId, seconds: float, prompt_tokens: int, output_tokens: int
    ) -> None:
        self._hold(Straight(path, model, node_id, seconds, prompt_tokens, output_tokens))

    def part_finished(self, summary: RequestSummary) -> None:
        self._hold(Finished(summary, part=True))

    def retried(self, reason: str) -> None:
        self._hold(Retried(reason))

    def refused(self, reason: str) -> None:
        self._hold(Refused(reason))

    def stream_broke(self, outcome: str, pause_s: float | None = None) -> None:
        self._hold(StreamBroke(outcome, pause_s))

    def stalled(self, model: str, node_id: NodeId, opened: bool) -> None:
        self._hold(Stalled(model, node_id, opened))

    def ask_timed_out(self) -> None:
        self._hold(AskTimedOut())

    def decided_alone(self) -> None:
        self._hold(DecidedAlone())

    def request_cut(self, path: str, parts: int) -> None:
        self._hold(RequestCut(path, parts))

    def loop_lagged(self, seconds: float) -> None:
        """Waits for the next occasion: an idle process should sleep."""
        if self._told or len(self._events) < LAGS_HELD_MAX:
            self._events.append(LoopLagged(seconds))


def _named(model: str, node_id: str) -> bool:
    return len(model) <= TEXT_CHARS_MAX and len(node_id) <= TEXT_CHARS_MAX


def _time(seconds: float) -> bool:
    return isfinite(seconds) and seconds >= 0
