"""A request runner with everything around it in memory, on a virtual clock."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.support.gateway import CountingObserver, FakeClient, FakeMesh, FakeTimers

from covey_gateway.core.front import IncomingRequest
from covey_gateway.core.settings import RequestSettings
from covey_gateway.io.runner import RequestRunner
from covey_scheduler.core.leaderless import choose_alone
from covey_scheduler.core.sharding import ShardingSettings

CHAT = "/v1/chat/completions"


class Pool:
    """A runner with everything around it."""

    def __init__(
        self,
        mesh: FakeMesh | None = None,
        settings: RequestSettings | None = None,
        sharding: ShardingSettings | None = None,
    ) -> None:
        self.mesh = mesh or FakeMesh()
        self.timers = FakeTimers()
        self.observer = CountingObserver()
        ids = iter(range(10**9))
        self.runner = RequestRunner(
            self.mesh,
            self.timers.clock,
            random.Random(7).random,
            settings or RequestSettings(),
            self.observer,
            choose_alone,
            self.timers,
            new_id=lambda: f"{next(ids):012x}",
            unix_clock=lambda: 1.7e9,
            sharding=sharding,
        )

    def submit(self, deadline_s: float | None = None, path: str = CHAT, **fields: Any) -> tuple[FakeClient, Any]:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}
        client = FakeClient()
        active = self.runner.submit(IncomingRequest(path, json.dumps(body).encode(), "ada", 1, deadline_s), client)
        assert client.heads == [], "the sink was called from inside submit"
        self.timers.settle()
        return client, active

    def quiet(self) -> bool:
        """Nothing is left over."""
        return not self.runner.active and not self.runner.in_flight() and not self.timers.pending
