"""Real vLLM on two hosts of a LAN: the same model on both, and what happens when an engine or an agent is killed.

The engines are started once. Every test leaves the pool whole, but the last, which kills an agent for good.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.lan.agents import DATA_PORT, GRPC_PORT, HTTP_PORT, LINK_PORT, HostAgent, LanPool
from tests.lan.client import chat
from tests.lan.conftest import MakeLab
from tests.lan.listening import listening
from tests.lan.load import Asking, Load
from tests.support.engines import engine_processes, engine_sockets
from tests.support.polling import wait_until
from tests.support.undecided import engine_answer

from covey.demo.pool import CHAT_MODEL, alive, descendants

pytestmark = [pytest.mark.lan, pytest.mark.vllm, pytest.mark.timeout(600)]

LOADED_WITHIN_S = 400.0
ENGINES_GONE_GOAL_S = 5.0
PROMPT = "Tell me a little story."
Note = Callable[[str, float], None]


@pytest.fixture(scope="module")
def pool(make_module_lab: MakeLab) -> Iterator[LanPool]:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM (make setup installs it)")
    hosts = make_module_lab(3).hosts
    made = LanPool(hosts[:2], ("--kv-cache-bytes", "64M"), {host.name: ["demo"] for host in hosts})
    try:
        made.start(LOADED_WITHIN_S)
        yield made
    finally:
        made.close()


def model_on(pool: LanPool, agent: HostAgent, viewer: HostAgent) -> dict[str, Any]:
    """What `viewer` knows of the engine of `agent`."""
    for member in (pool.pool(viewer) or {"members": []})["members"]:
        if member["facts"]["node_id"] == agent.node_id and member["load"]:
            (found,) = member["load"]["models"]
            return dict(found)
    return {"state": "unknown", "restarts": 0}


def not_ready(model: dict[str, Any]) -> dict[str, Any] | None:
    return None if model["state"] == "ready" else model


def test_a_request_entered_at_each_is_served_by_each_with_the_same_words(pool: LanPool) -> None:
    texts = []
    for server in pool.members:
        (other,) = pool.others(server)
        other.covey("drain")
        try:
            for entry in pool.members:
                await_drain(pool, other, entry, True)
                answered = chat(entry.client, CHAT_MODEL, prompt=PROMPT, max_tokens=32, temperature=0.0)
                assert answered.machine == server.name
                texts.append(answered.text)
        finally:
            other.covey("drain", "--undo")
            for viewer in pool.members:
                await_drain(pool, other, viewer, False)
    body = {"model": CHAT_MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 32, "temperature": 0}
    undisturbed = engine_answer(engine_sockets(pool.members[0])[CHAT_MODEL], "/v1/chat/completions", body)
    assert len(undisturbed.text.split()) > 3
    assert len(texts) == 4
    for text in texts:
        undisturbed.told_by(text)


def await_drain(pool: LanPool, agent: HostAgent, viewer: HostAgent, wanted: bool) -> None:
    """Until `viewer` knows that `agent` drains, or no longer does."""

    def known() -> bool:
        members = (pool.pool(viewer) or {"members": []})["members"]
        load = next((m["load"] for m in members if m["facts"]["node_id"] == agent.node_id), None)
        return load is not None and load["draining"] == wanted

    wait_until(known, f"{viewer.name} sees draining of {agent.name}: {wanted}")


def test_engines_listen_on_no_address_of_the_network(pool: LanPool) -> None:
    for agent in pool.members:
        assert engine_processes(agent)
        assert listening(agent.pid, "tcp") == {HTTP_PORT, GRPC_PORT, LINK_PORT, DATA_PORT}


def test_a_killed_engine_is_reported_and_restarted_while_others_serve(pool: LanPool, measured: Note) -> None:
    victim, other = pool.members
    before = model_on(pool, victim, other)["restarts"]
    killed = set(engine_processes(victim))
    os.kill(min(killed), signal.SIGKILL)
    killed_s = time.monotonic()
    reported = wait_until(lambda: not_ready(model_on(pool, victim, other)), "the other machine knows")
    measured("kill -9 of a vLLM until the other machine knows", time.monotonic() - killed_s)
    assert reported["detail"], "what is shown to people says what happened"
    with Load([Asking(agent.client, CHAT_MODEL) for agent in pool.members]) as load:
        load.more(20)
        assert model_on(pool, victim, victim)["state"] != "ready", "all this was served while it was away"
    assert load.failed == []
    assert {one.machine for one in load.answered} == {other.name}
    pool.wait_whole(timeout_s=LOADED_WITHIN_S)
    measured("kill -9 of a vLLM until it serves again", time.monotonic() - killed_s)
    found = model_on(pool, victim, other)
    assert found["restarts"] == before + 1
    assert found["state"] == "ready"
    assert not killed & set(engine_processes(victim))


def test_an_agent_killed_leaves_no_engine_and_the_other_machine_serves(pool: LanPool, measured: Note) -> None:
    victim, other = pool.members
    engines = descendants(victim.pid)
    assert set(engine_processes(victim)) <= engines
    victim.kill()
    killed_s = time.monotonic()
    assert chat(other.client, CHAT_MODEL).machine == other.name
    measured("kill -9 of one of two agents until the next answer is complete", time.monotonic() - killed_s)
    wait_until(lambda: not alive(engines), "no engine process is left", ENGINES_GONE_GOAL_S * 3)
    measured("kill -9 of an agent until no process of its engine is left", time.monotonic() - killed_s)
    wait_until(lambda: pool.led_by(other) == other.node_id, "the one that is left leads")
    assert chat(other.client, CHAT_MODEL).machine == other.name
