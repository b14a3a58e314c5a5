"""Real agent processes on loopback with simulated engines: what a pool promises, end to end and quickly."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool, ask, ask_whole

from covey.cli.agent_client import AgentClient
from covey.demo.agent_process import AgentProcess, call_covey, covey_command
from covey.demo.pool import alive, descendants
from covey.file_limit import FILES_WANTED

NAMES = ("anna", "ben", "carl")


@pytest.fixture(scope="module")
def pool() -> Iterator[AgentPool]:
    """One pool for the tests that leave it whole."""
    made = AgentPool(NAMES)
    try:
        with usual_file_limit():
            made.start()
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def usual_file_limit() -> Iterator[None]:
    """What is started meanwhile begins with the soft limit of an ordinary login."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def small_pool() -> Iterator[AgentPool]:
    """Two agents for one test that ends some of them."""
    made = AgentPool(NAMES[:2], ("--simulated-decode-tokens-per-s", "50"))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("entry", NAMES)
@pytest.mark.parametrize("server", NAMES)
def test_a_request_entered_at_each_is_served_by_each(pool: AgentPool, entry: str, server: str) -> None:
    machine, text = ask_whole(pool.agents[entry].client, f"only-{server}")
    assert machine == server
    assert text


@pytest.mark.parametrize("entry", NAMES)
def test_every_agent_lists_every_model(pool: AgentPool, entry: str) -> None:
    listed = {model["id"] for model in pool.agents[entry].client.get("/v1/models")["data"]}
    assert listed == {SHARED_MODEL, *(f"only-{name}" for name in NAMES)}


@pytest.mark.parametrize("entry", NAMES)
def test_a_decision_can_be_explained_on_any_machine(pool: AgentPool, entry: str) -> None:
    stream = ask(pool.agents["anna"].client, "only-ben")
    list(stream)
    request_id = stream.headers["x-request-id"]
    explained = wait_until(
        lambda: (found := call_covey(pool.agents[entry].state_dir, "explain", request_id))["status"] and found,
        "the request's record is complete",
    )
    verdicts = {v["node_id"]: v["rejected_because"] for v in explained["decisions"][-1]["candidates"]}
    assert explained["decisions"][-1]["chosen_node_id"] == pool.agents["ben"].node_id
    assert verdicts[pool.agents["ben"].node_id] == ""
    assert verdicts[pool.agents["anna"].node_id]


def test_a_drained_machine_gets_nothing_until_undone(pool: AgentPool) -> None:
    carl = pool.agents["carl"]
    call_covey(carl.state_dir, "drain")
    try:
        for agent in pool.agents.values():
            wait_until(lambda agent=agent: _draining(pool, agent, carl), f"{agent.name} knows that carl drains")
        served_by = {ask_whole(carl.client, SHARED_MODEL)[0] for _ in range(6)}
        assert "carl" not in served_by
    finally:
        call_covey(carl.state_dir, "drain", "--undo")
    wait_until(lambda: not _draining(pool, pool.agents["anna"], carl), "carl is back")
    assert ask_whole(pool.agents["anna"].client, "only-carl")[0] == "carl"


def _draining(pool: AgentPool, viewer: AgentProcess, agent: AgentProcess) -> bool:
    found = pool.pool(viewer)
    assert found is not None
    return any(m["load"]["draining"] for m in found["members"] if m["facts"]["node_id"] == agent.node_id)


def test_a_second_agent_on_the_same_state_is_refused(pool: AgentPool) -> None:
    done = subprocess.run(
        covey_command(pool.agents["anna"].state_dir, "up", "--http", "127.0.0.1:0"),
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=30,
    )  # fmt: skip
    assert done.returncode == 1
    assert "an agent runs on" in done.stderr


def test_killing_the_leader_fails_no_request_and_it_can_come_back(pool: AgentPool) -> None:
    leader = pool.leader()
    others = [agent for agent in pool.agents.values() if agent is not leader]
    engines = descendants(leader.pid)
    leader.kill()
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda i: ask_whole(others[i % 2].client, SHARED_MODEL), range(48)))
    assert {machine for machine, _ in answers} <= {agent.name for agent in others}
    assert all(text for _, text in answers)
    pool.wait_whole([agent.name for agent in others])
    assert pool.leader() in others
    wait_until(lambda: not alive(engines), "nothing is left of the killed agent")
    leader.start()
    leader.wait_answering()
    pool.wait_whole()
    assert ask_whole(others[0].client, f"only-{leader.name}")[0] == leader.name


def test_a_stream_in_flight_survives_a_clean_stop(small_pool: AgentPool) -> None:
    anna, ben = small_pool.agents.values()
    stream = iter(ask(ben.client, "only-ben", max_tokens=60))
    first = next(stream)
    ben.ask_to_stop()
    rest = list(stream)
    assert first
    assert any(c.get("finish_reason") for event in rest for c in event.get("choices", []))
    assert ben.stop() == 0
    assert ask_whole(anna.client, SHARED_MODEL)[0] == "anna"


def test_down_leaves_nothing(small_pool: AgentPool) -> None:
    ben = small_pool.agents["ben"]
    pids = {ben.pid, *descendants(ben.pid)}
    content = call_covey(ben.state_dir, "down", "--grace", "1")
    assert content["stopped"] is True
    assert not alive(pids)
    assert ben.stop() == 0
    assert not (ben.state_dir / "running.json").exists()
    status = subprocess.run(
        covey_command(ben.state_dir, "--json", "ps"), capture_output=True, text=True, check=False, timeout=30
    )
    assert status.returncode == 3
    assert json.loads(status.stdout)["error"]["exit_code"] == 3


def test_a_second_interrupt_ends_at_once_and_leaves_nothing(small_pool: AgentPool) -> None:
    ben = small_pool.agents["ben"]
    pids = {ben.pid, *descendants(ben.pid)}
    stream = iter(ask(AgentClient.at(f"http://{ben.addresses.http}", ""), "only-ben", max_tokens=2000))
    next(stream)
    ben.interrupt()
    wait_until(lambda: "stopping" in ben.last_lines(), "the first interrupt is seen")
    ben.interrupt()
    assert ben.wait_ended() == 130
    wait_until(lambda: not alive(pids), "nothing is left")


def test_a_rolling_restart_under_load_loses_nothing(small_pool: AgentPool) -> None:
    anna, ben = small_pool.agents.values()
    for restarted, entry in ((ben, anna), (anna, ben)):
        with concurrent.futures.ThreadPoolExecutor(4) as threads:
            answers = [threads.submit(ask_whole, entry.client, SHARED_MODEL, 16) for _ in range(24)]
            assert restarted.stop() == 0
            for answer in answers:
                assert answer.result()[1]
        restarted.start()
        restarted.wait_answering()
        small_pool.wait_whole()


def test_an_agent_may_open_as_many_files_as_the_system_lets_it(pool: AgentPool) -> None:
    """Two sockets a stream: the usual soft limit of 1,024 would end a busy machine."""
    limits = Path(f"/proc/{pool.agents['anna'].pid}/limits").read_text()
    soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
    assert int(soft) == min(FILES_WANTED, int(hard))
