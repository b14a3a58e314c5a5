"""`make run`: the pool stays until Ctrl-C."""

from __future__ import annotations

import time

from covey.cli.tables import pool_table
from covey.demo.agent_process import DemoFailed
from covey.demo.asking import over_http
from covey.demo.pool import CHAT_MODEL, DemoPool
from covey.demo.screen import Screen

WATCH_INTERVAL_S = 0.5


def stay(screen: Screen, engine: str) -> None:
    """Returns on KeyboardInterrupt only; raises DemoFailed where the pool cannot be had or an agent ends."""
    with DemoPool(engine) as pool:
        pool.start(screen.progress)
        found = pool.wait_ready(screen.progress)
        screen.say(pool_table(found))
        screen.heading("A first answer")
        answer = over_http(pool.first, "Who are you?", screen.token)
        screen.say(f"[dim]{answer.describe()}[/dim]")
        _what_next(screen, pool)
        _watch(screen, pool)


def _watch(screen: Screen, pool: DemoPool) -> None:
    """One agent may end (you may kill it to see what happens); the pool is over when both have."""
    ended: set[str] = set()
    while True:
        for agent in pool.agents:
            if not agent.running and agent.name not in ended:
                ended.add(agent.name)
                screen.say(f"{agent.name} has ended; ask again, the pool serves on without it")
        if len(ended) == len(pool.agents):
            raise DemoFailed("both agents have ended\n" + "\n".join(agent.last_lines() for agent in pool.agents))
        time.sleep(WATCH_INTERVAL_S)


def _what_next(screen: Screen, pool: DemoPool) -> None:
    http, grpc = pool.first.addresses.http, pool.first.addresses.grpc
    screen.heading("Your endpoint")
    screen.say(f"  OpenAI-compatible  http://{http}/v1   (also http://{pool.second.addresses.http}/v1)")
    screen.say(f"  gRPC               {grpc}   (reflection is on)")
    screen.heading("Try, in another terminal")
    body = f'{{"model": "{CHAT_MODEL}", "stream": true, "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    for line in (
        f".venv/bin/covey --endpoint http://{http} ps --watch",
        f".venv/bin/covey --endpoint http://{http} chat Tell me a little story.",
        f"curl -N http://{http}/v1/chat/completions -H 'content-type: application/json' -d '{body}'",
        f"kill -9 {pool.second.pid}   # one agent of two: ask again, the other one serves",
        "make demo   # the same pool proving itself",
    ):
        screen.say(f"  {line}", plain=True)
    screen.say("\nThe demo model shows that the plumbing works; it knows next to nothing. Ctrl-C ends the pool.")
