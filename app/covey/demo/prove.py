"""`make demo`: the pool proves itself. Every figure printed was measured in this run."""

from __future__ import annotations

import time

from covey.cli.tables import pool_table
from covey.demo.agent_process import POLL_INTERVAL_S, AgentProcess, DemoFailed
from covey.demo.asking import over_grpc, over_http
from covey.demo.pool import DemoPool, alive, descendants
from covey.demo.screen import Screen

NEW_LEADER_WITHIN_S = 15.0
ENGINES_GONE_WITHIN_S = 15.0


def prove(screen: Screen, engine: str) -> None:
    """Raises DemoFailed where anything shown here does not hold."""
    started = time.monotonic()
    with DemoPool(engine) as pool:
        pool.start(screen.progress)
        found = pool.wait_ready(screen.progress)
        facts = [("pool of two agents ready, models loaded", time.monotonic() - started)]
        screen.heading("The pool")
        screen.say(pool_table(found))
        facts += _ask_both(screen, pool)
        facts += _kill_the_leader(screen, pool)
        stopping = time.monotonic()
        screen.progress("stopping")
        mine = {pid for agent in pool.agents if agent.running for pid in (agent.pid, *descendants(agent.pid))}
    left = alive(mine)
    if left:
        raise DemoFailed(f"processes were left behind: {sorted(left)}")
    facts.append(("everything stopped, no process left", time.monotonic() - stopping))
    _report(screen, facts, time.monotonic() - started)


Facts = list[tuple[str, float]]


def _ask_both(screen: Screen, pool: DemoPool) -> Facts:
    screen.heading(f"A chat over HTTP, asked of {pool.first.name}")
    http = over_http(pool.first, "Tell me a little story.", screen.token)
    screen.say(f"[dim]{http.describe()}[/dim]")
    screen.heading(f"A chat over gRPC, asked of {pool.second.name}")
    grpc = over_grpc(pool.second, "Who are you?", screen.token)
    screen.say(f"[dim]{grpc.describe()}[/dim]")
    return [
        ("first token over HTTP", http.first_token_s),
        ("whole answer over HTTP", http.total_s),
        ("first token over gRPC", grpc.first_token_s),
        ("whole answer over gRPC", grpc.total_s),
    ]


def _kill_the_leader(screen: Screen, pool: DemoPool) -> Facts:
    leader, other = pool.leader_and_other()
    engines = descendants(leader.pid)
    screen.heading(f"{leader.name} leads: killing it with SIGKILL, and asking {other.name} at once")
    killed = time.monotonic()
    leader.kill()
    answer = over_http(other, "What is a leader?", screen.token)
    first_token_s = time.monotonic() - killed - answer.total_s + answer.first_token_s
    screen.say(f"[dim]{answer.describe()}[/dim]")
    led_s = _wait_for_leader(screen, pool, other, killed)
    gone_s = _wait_until_gone(screen, engines, killed)
    after = over_http(other, "Say hello.", screen.token)
    screen.say(f"[dim]{after.describe()}[/dim]")
    return [
        (f"from killing {leader.name} to the next answer's first token", first_token_s),
        (f"from killing {leader.name} until {other.name} leads (seen within)", led_s),
        (f"from killing {leader.name} until none of its {len(engines)} processes was left (seen within)", gone_s),
        ("first token under the new leader", after.first_token_s),
    ]


def _wait_for_leader(screen: Screen, pool: DemoPool, agent: AgentProcess, since: float) -> float:
    while time.monotonic() - since < NEW_LEADER_WITHIN_S:
        found = pool.pool_of(agent)
        if found is not None and found["leader_node_id"] == agent.node_id:
            return time.monotonic() - since
        screen.progress("waiting for a new leader")
        time.sleep(POLL_INTERVAL_S)
    raise DemoFailed(f"{agent.name} did not become leader within {NEW_LEADER_WITHIN_S:.0f} s")


def _wait_until_gone(screen: Screen, pids: set[int], since: float) -> float:
    while time.monotonic() - since < ENGINES_GONE_WITHIN_S:
        if not alive(pids):
            return time.monotonic() - since
        screen.progress("waiting for the killed agent's engines to end")
        time.sleep(POLL_INTERVAL_S)
    raise DemoFailed(f"processes of the killed agent are still there: {sorted(alive(pids))}")


def _report(screen: Screen, facts: Facts, total_s: float) -> None:
    screen.heading("What happened, measured in this run")
    width = max(len(what) for what, _ in facts)
    for what, seconds in facts:
        screen.say(f"  {what:{width}}  {seconds:8.3f} s")
    screen.say(f"\n[green]All of it held, in {total_s:.0f} s.[/green] `make run` leaves such a pool running for you.")
