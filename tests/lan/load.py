"""Clients that ask without pause, each in a thread of its own, and keep what became of every request."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from tests.lan.client import Answered, HostClient, chat
from tests.support.polling import wait_until

from covey.errors import UserError

REQUESTS_MAX = 100_000


@dataclass(frozen=True)
class Asking:
    """What one client does over and over."""

    client: HostClient
    model: str
    stream: bool = True


class Load:
    """Runs from `__enter__` to `__exit__`; a client never stops because a request failed."""

    def __init__(self, clients: Sequence[Asking]) -> None:
        self.answered: list[Answered] = []
        self.failed: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(one,), name=f"load-{one.model}") for one in clients]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def more(self, requests: int) -> None:
        """Until so many more were answered or have failed."""
        wanted = self.done + requests
        wait_until(lambda: self.done >= wanted, f"{requests} more requests end")

    @property
    def done(self) -> int:
        return len(self.answered) + len(self.failed)

    def _ask(self, asking: Asking) -> None:
        while not self._stop.is_set() and self.done < REQUESTS_MAX:
            try:
                self.answered.append(chat(asking.client, asking.model, stream=asking.stream))
            except (UserError, KeyError, ValueError) as error:
                self.failed.append(f"{asking.client.where}, {asking.model}: {error}")
