"""Checks that every decoder shares: ids, texts, numbers, list lengths. A peer is authenticated, and still not trusted
to be free of bugs. Not here: any message."""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from typing import TypeVar

from covey_mesh.core.ballot import NO_BALLOT, Ballot
from covey_mesh.core.names import NodeId, is_id
from covey_mesh.wire.v1 import types_pb2

TEXT_CHARS_MAX = 4096
"""Names, reasons, details."""

ADDRESSES_MAX = 32
"""Of one kind, of one machine."""

_UINT32_MAX = 2**32 - 1
_Item = TypeVar("_Item", bound=Sized)


class PeerProtocolError(Exception):
    """The peer sent something that no build of covey sends: its fault, never fatal here."""


def node_id(text: str) -> NodeId:
    """Raises PeerProtocolError unless it is a well-formed id."""
    if not is_id(text):
        raise PeerProtocolError(f"not a node id ({len(text)} characters)")
    return NodeId(text)


def node_id_or_none(text: str) -> NodeId | None:
    return node_id(text) if text else None


def text(value: str, what: str) -> str:
    """Raises PeerProtocolError when it is longer than TEXT_CHARS_MAX."""
    if len(value) > TEXT_CHARS_MAX:
        raise PeerProtocolError(f"{what} is {len(value)} characters long")
    return value


def clipped(value: str) -> str:
    """What is sent of a text for people: our own long texts must not look like a broken peer to the other side."""
    return value[:TEXT_CHARS_MAX]


def bounded(values: _Item, length_max: int, what: str) -> _Item:
    """Raises PeerProtocolError for a list or map that is too long."""
    if len(values) > length_max:
        raise PeerProtocolError(f"{len(values)} {what}, at most {length_max} are allowed")
    return values


def texts(values: Sequence[str], length_max: int, what: str) -> tuple[str, ...]:
    return tuple(text(value, what) for value in bounded(values, length_max, what))


def number(value: float, what: str) -> float:
    """A quantity: finite and not negative. Raises PeerProtocolError."""
    if not math.isfinite(value) or value < 0:
        raise PeerProtocolError(f"{what} is {value}")
    return value


def prediction_s(value: float) -> float:
    """Predicted seconds: infinity is a legal prediction, NaN compares with nothing. Raises PeerProtocolError."""
    if math.isnan(value):
        raise PeerProtocolError("a prediction is not a number")
    return value


def to_ms(seconds: float) -> int:
    """Whole milliseconds, rounded up, so that a short time never turns into 0, which means none."""
    return min(_UINT32_MAX, max(0, math.ceil(round(seconds * 1000, 6))))


def from_ms(milliseconds: int) -> float:
    return milliseconds / 1000


def ballot_to_wire(ballot: Ballot) -> types_pb2.Ballot:
    return types_pb2.Ballot(counter=ballot.counter, node_id=ballot.node_id)


def ballot_from_wire(wire: types_pb2.Ballot) -> Ballot:
    """An absent one is NO_BALLOT. Raises PeerProtocolError."""
    if not wire.node_id:
        if wire.counter:
            raise PeerProtocolError("a ballot without a machine")
        return NO_BALLOT
    return Ballot(wire.counter, node_id(wire.node_id))
