"""The latest attempt heard of for each request: for duplicates, and for correcting what was charged. Bounded.

Not here: what follows of it (scheduler.py).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from covey_mesh.core.asking import Answer
from covey_scheduler.core.charges import NOTHING, Charge
from covey_scheduler.core.inflight import RequestKey


@dataclass(slots=True)
class Known:
    """One request; `answer` once it was assigned."""

    attempt: int
    model: str
    user: str
    answer: Answer | None = None
    charged: Charge = NOTHING
    told: bool = False
    """It ran before this machine led: its prompt was charged by the leader before."""


class KnownRequests:
    """At most `requests_max`; the one remembered longest ago is forgotten."""

    def __init__(self, requests_max: int) -> None:
        self._requests_max = requests_max
        self._requests: OrderedDict[RequestKey, Known] = OrderedDict()
        self.get: Callable[[RequestKey], Known | None] = self._requests.get

    def __len__(self) -> int:
        return len(self._requests)

    def remember(self, key: RequestKey, known: Known) -> None:
        requests = self._requests
        requests[key] = known
        requests.move_to_end(key)
        if len(requests) > self._requests_max:
            requests.popitem(last=False)

    def forget(self, key: RequestKey) -> None:
        self._requests.pop(key, None)

    def clear(self) -> None:
        self._requests.clear()
