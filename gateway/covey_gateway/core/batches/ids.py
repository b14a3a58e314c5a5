"""Ids of files and batches. Each carries the first digits of the machine that keeps the object and the time it was
made: any gateway knows whom to ask, and lists of several machines can be merged and paged without looking anything up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from covey_mesh.core.names import NodeId

FILE, BATCH = "file-", "batch_"
OWNER_DIGITS = 8
RANDOM_DIGITS = 16
ID_LENGTH_MAX = 64

_FORM = re.compile(r"(file-|batch_)([0-9a-f]{8})([0-9a-f]{8})([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class ObjectId:
    """A well-formed id; whether the object exists is another question."""

    text: str
    kind: str
    owner: str
    created_at_s: int

    @property
    def order(self) -> tuple[int, str]:
        """Lists are sorted by this."""
        return self.created_at_s, self.text

    def owned_by(self, node_id: NodeId) -> bool:
        return node_id.startswith(self.owner)


def make_id(kind: str, node_id: NodeId, created_at_s: int, random_bits: int) -> str:
    """`kind`: FILE or BATCH. 64 random bits: an id cannot be guessed."""
    tail = f"{random_bits % 2 ** (4 * RANDOM_DIGITS):0{RANDOM_DIGITS}x}"
    return f"{kind}{node_id[:OWNER_DIGITS]}{created_at_s % 2**32:08x}{tail}"


def read_id(text: str, kind: str) -> ObjectId | None:
    """None for what is no id of that kind."""
    found = _FORM.fullmatch(text) if len(text) <= ID_LENGTH_MAX else None
    if found is None or found[1] != kind:
        return None
    return ObjectId(text, kind, found[2], int(found[3], 16))


def owner_among(object_id: ObjectId, nodes: Iterable[NodeId]) -> NodeId | None:
    """The machine that keeps the object, if it is known."""
    return next((node_id for node_id in nodes if object_id.owned_by(node_id)), None)
