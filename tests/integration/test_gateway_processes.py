"""Real agents with a further gateway process each: one address, one pool, one set of figures, whoever serves."""

from __future__ import annotations

import concurrent.futures
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool

from covey.cli.agent_client import AgentClient
from covey.demo.agent_process import AgentProcess, call_covey, covey_command
from covey.demo.pool import alive, descendants
from covey_gateway.core.process_ids import process_of
from covey_node.core import simulated_openai as openai

EMBED_MODEL = "covey-demo-embed"
CHAT = "/v1/chat/completions"
RESTARTED = ("covey_gateway_process_restarts_total", "covey_requests_lost_total")
TRIES = 400
"""Connections until both processes have taken one: the agent takes every ninth."""


@pytest.fixture(scope="module")
def pool() -> Iterator[AgentPool]:
    """Two agents for the tests that leave them whole."""
    settings = ("--gateway-processes", "2", "--model", "demo-embed", "--simulated-prefill-tokens-per-s", "4000")
    made = AgentPool(("anna", "ben"), settings)
    try:
        made.start()
        yield made
    finally:
        made.close()


SLOW = ("--gateway-processes", "2", "--simulated-decode-tokens-per-s", "50")


@pytest.fixture(scope="module")
def slow() -> Iterator[AgentProcess]:
    """One agent whose streams last, for the tests that leave it whole."""
    yield from running(("anna",), SLOW)


@pytest.fixture
def ended() -> Iterator[AgentProcess]:
    """The same for one test that ends it."""
    yield from running(("anna",), SLOW)


def running(names: tuple[str, ...], settings: tuple[str, ...]) -> Iterator[AgentProcess]:
    made = AgentPool(names, settings)
    try:
        made.start()
        yield made.agents[names[0]]
    finally:
        made.close()


CLIENT = httpx.Client(headers={"connection": "close"}, timeout=30, verify=False)
"""Each request on a connection of its own: any process may take it."""


def url(agent: AgentProcess, path: str) -> str:
    return f"http://{agent.addresses.http}{path}"


def chat(model: str = SHARED_MODEL, tokens: int = 4, stream: bool = False) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": tokens, "stream": stream}


def taken_by(agent: AgentProcess, process: int, body: dict[str, object], path: str = CHAT) -> httpx.Response:
    """The answer of the wanted process, on as many new connections as it takes."""
    for _ in range(TRIES):
        answer = CLIENT.post(url(agent, path), json=body)
        if process_of(answer.headers["x-request-id"]) == process:
            return answer
    raise AssertionError(f"none of {TRIES} connections came to process {process}")


class OpenStream:
    """A streamed chat at the wanted process, read line by line."""

    def __init__(self, agent: AgentProcess, process: int, tokens: int) -> None:
        for _ in range(TRIES):
            self._client = httpx.Client(timeout=30, verify=False)
            request = self._client.build_request("POST", url(agent, CHAT), json=chat(tokens=tokens, stream=True))
            self._answer = self._client.send(request, stream=True)
            if process_of(self._answer.headers["x-request-id"]) == process:
                self.lines = (line for line in self._answer.iter_lines() if line)
                return
            self._client.close()
        raise AssertionError(f"none of {TRIES} connections came to process {process}")

    def close(self) -> None:
        self._client.close()


def workers(agent: AgentProcess) -> set[int]:
    """Process ids of the agent's further gateway processes."""
    return {pid for pid in descendants(agent.pid) if b"covey.gateway_process" in command_line(pid)}


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def metric(agent: AgentProcess, name: str, get: Callable[[str], str] | None = None) -> float:
    """The sum of a metric's series, over HTTP unless `get` fetches it otherwise."""
    text = get("/metrics") if get else CLIENT.get(url(agent, "/metrics")).text
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)
    return sum(map(float, found))


def local(agent: AgentProcess) -> Callable[[str], str]:
    """Fetches a page over the agent's own socket."""
    path = json.loads((agent.state_dir / "running.json").read_text())["socket"]

    def get(page: str) -> str:
        with httpx.Client(transport=httpx.HTTPTransport(uds=path, verify=False)) as client:
            return client.get(f"http://localhost{page}").text

    return get


@pytest.mark.parametrize("process", [0, 1])
def test_every_process_answers_and_is_explained_everywhere(pool: AgentPool, process: int) -> None:
    anna, ben = pool.agents.values()
    for model, machine in (("only-anna", "anna"), ("only-ben", "ben")):
        answer = taken_by(anna, process, chat(model))
        assert answer.status_code == 200
        assert answer.headers["x-covey-node"] == machine
        assert answer.json()["usage"]["completion_tokens"] == 4
        for asked in (anna, ben):
            found = call_covey(asked.state_dir, "explain", answer.headers["x-request-id"])
            assert found["status"] == 200
            assert found["gateway_node_id"] == anna.node_id
            assert found["decisions"][-1]["decided_by"] == "leader"
            assert found["attempts"][-1]["outcome"] == "completed"
            verdicts = {one["node_id"]: one["rejected_because"] for one in found["decisions"][-1]["candidates"]}
            assert verdicts.keys() == {anna.node_id, ben.node_id}
            assert [name for name, why in verdicts.items() if not why] == [found["decisions"][-1]["chosen_node_id"]]
        assert re.fullmatch(r"predicted: best of 1, 1 rejected, by leader", answer.headers["x-covey-why"])


def test_a_stream_is_the_same_from_both(pool: AgentPool) -> None:
    def text(process: int) -> str:
        raw = taken_by(pool.agents["anna"], process, chat("only-ben", tokens=40, stream=True)).text
        events = [line.removeprefix("data: ") for line in raw.splitlines() if line]
        assert events[-1] == "[DONE]"
        return "".join(c["delta"].get("content") or "" for e in events[:-1] for c in json.loads(e).get("choices", []))

    assert text(0) == text(1)
    assert len(text(1).split()) == 40


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [(CHAT, b"{", 400), (CHAT, b'{"model":"nobody","messages":[]}', 404), ("/v1/nothing", b"{}", 404),
     ("/covey/v1/shutdown", b"{}", 403), ("/v1/batches", b"{", 400)],
)  # fmt: skip
def test_errors_are_those_of_the_agent(pool: AgentPool, path: str, body: bytes, status: int) -> None:
    answers = {}
    for _ in range(24):  # both processes, very nearly always; the same in either case
        answer = CLIENT.post(url(pool.agents["anna"], path), content=body)
        assert answer.status_code == status
        answers[answer.text] = answer.json()["error"]
    assert len(answers) == 1


def test_embeddings_are_cut_and_merged(pool: AgentPool) -> None:
    inputs = [f"input {i} has seven words in it" for i in range(400)]
    answer = taken_by(pool.agents["ben"], 1, {"model": EMBED_MODEL, "input": inputs}, "/v1/embeddings")
    call = openai.parse("/v1/embeddings", json.dumps({"input": inputs}).encode(), EMBED_MODEL, True, 4096)
    wanted = [row["embedding"] for row in json.loads(openai.whole(call, "", 0, 0))["data"]]
    assert [row["embedding"] for row in answer.json()["data"]] == wanted
    assert set(answer.headers["x-covey-node"].split(", ")) == {"anna", "ben"}
    found = call_covey(pool.agents["anna"].state_dir, "explain", answer.headers["x-request-id"])
    assert [unit for part in found["parts"] for unit in range(part["begin"], part["end"])] == list(range(400))


def test_files_and_batches_belong_to_the_agent(pool: AgentPool) -> None:
    """Large bodies both ways through whichever process; what one took, another finds."""
    anna = pool.agents["anna"]
    line = json.dumps({"custom_id": "x", "method": "POST", "url": CHAT, "body": chat("only-anna")})
    content = "\n".join(line.replace('"x"', f'"line {i}"') for i in range(12_000)).encode()
    assert len(content) > 2_000_000
    for _ in range(6):
        form = {"file": ("lines.jsonl", content)}
        made = CLIENT.post(url(anna, "/v1/files"), files=form, data={"purpose": "batch"}).raise_for_status()
        page = url(anna, f"/v1/files/{made.json()['id']}")
        assert CLIENT.get(f"{page}/content").content == content
        assert CLIENT.head(page).headers["content-length"] == str(len(CLIENT.get(page).content))
        assert CLIENT.delete(page).json()["deleted"] is True


def test_figures_are_of_the_whole_agent(pool: AgentPool) -> None:
    anna = pool.agents["anna"]
    get = local(anna)
    before = metric(anna, "covey_requests_total", get)
    seconds_before = metric(anna, "covey_request_seconds_count", get)
    for process in (0, 1):
        taken_by(anna, process, chat())
    asked = metric(anna, "covey_requests_total") - before
    assert asked >= 2
    wait_until(lambda: metric(anna, "covey_requests_in_flight", get) == 0, "all requests are counted to their end")
    assert metric(anna, "covey_request_seconds_count", get) - seconds_before == (
        metric(anna, "covey_requests_total", get) - before
    )
    assert metric(anna, "covey_gateway_processes") == 2
    assert metric(anna, "covey_gateway_process_cpu_seconds_total") > 0


def test_clients_that_leave_end_nothing_but_their_streams(slow: AgentProcess) -> None:
    before = workers(slow)
    for _ in range(3):
        streams = [OpenStream(slow, 1, tokens=500) for _ in range(8)]
        for stream in streams:
            next(stream.lines)
        for stream in streams:
            stream.close()
    wait_until(lambda: metric(slow, "covey_requests_in_flight", local(slow)) == 0, "all of them are counted to the end")
    wait_until(lambda: not engine_busy(slow), "the engine's work was aborted")
    assert workers(slow) == before


def test_a_killed_process_breaks_its_own_connections_alone(slow: AgentProcess) -> None:
    kept, broken = OpenStream(slow, 0, tokens=150), OpenStream(slow, 1, tokens=150)
    next(kept.lines), next(broken.lines)
    wait_until(lambda: metric(slow, "covey_requests_in_flight", local(slow)) >= 2, "both streams are counted")
    counted = metric(slow, "covey_requests_total", local(slow))
    before = [metric(slow, name, local(slow)) for name in RESTARTED]
    (killed,) = workers(slow)
    os.kill(killed, signal.SIGKILL)
    with pytest.raises(httpx.TransportError):
        list(broken.lines)
    assert list(kept.lines)[-1] == "data: [DONE]"
    kept.close()
    broken.close()
    wait_until(lambda: workers(slow) - {killed}, "another process was started")
    wait_until(lambda: metric(slow, "covey_gateway_processes", local(slow)) == 2, "it listens")
    assert taken_by(slow, 1, chat()).status_code == 200
    assert [metric(slow, name) for name in RESTARTED] == [count + 1 for count in before]
    wait_until(lambda: metric(slow, "covey_requests_in_flight", local(slow)) == 0, "the lost one is no longer held")
    assert metric(slow, "covey_requests_total", local(slow)) >= counted + 2
    wait_until(lambda: not engine_busy(slow), "the engine's work for the lost stream was aborted")


def engine_busy(agent: AgentProcess) -> bool:
    found = agent.client.get("/covey/v1/pool")
    return any(model["running_requests"] for member in found["members"] for model in member["load"]["models"])


def test_the_port_answers_while_processes_are_killed_under_load(slow: AgentProcess) -> None:
    """New connections are refused by nobody; only those of a killed process break."""
    done = threading.Event()
    broken: list[str] = []

    def ask_on() -> int:
        count = 0
        while not done.is_set():
            try:
                assert CLIENT.post(url(slow, CHAT), json=chat(tokens=2)).status_code == 200
                count += 1
            except httpx.ConnectError as error:
                raise AssertionError("a connection was refused") from error
            except httpx.TransportError as error:
                broken.append(type(error).__name__)
        return count

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask_on) for _ in range(4)]
        try:
            for _ in range(2):
                (killed,) = wait_until(lambda: workers(slow), "there is one to kill")
                os.kill(killed, signal.SIGKILL)
                wait_until(lambda pid=killed: workers(slow) - {pid}, "another process was started")
                wait_until(lambda: metric(slow, "covey_gateway_processes", local(slow)) == 2, "it listens")
        finally:
            done.set()
        assert all(each.result() for each in asking)
    # Each client has one connection at a time: a kill breaks its own, and perhaps the next, which the kernel may still
    # put in the line of the dying process.
    assert len(broken) <= 2 * 4 * 2, broken


def test_a_hanging_process_is_replaced(slow: AgentProcess) -> None:
    (stopped,) = workers(slow)
    os.kill(stopped, signal.SIGSTOP)
    wait_until(lambda: workers(slow) - {stopped} and not alive({stopped}), "it was killed and replaced")
    wait_until(lambda: metric(slow, "covey_gateway_processes", local(slow)) == 2, "the new one listens")
    assert metric(slow, "covey_gateway_process_hangs_total") == 1
    assert taken_by(slow, 1, chat()).status_code == 200


def test_a_killed_agent_leaves_nothing(ended: AgentProcess) -> None:
    stream = OpenStream(ended, 1, tokens=500)
    next(stream.lines)
    pids = {ended.pid, *descendants(ended.pid)}
    assert workers(ended)
    ended.kill()
    wait_until(lambda: not alive(pids), "nothing is left")
    with pytest.raises(httpx.TransportError):
        list(stream.lines)
    stream.close()


def test_streams_are_finished_before_an_agent_ends(ended: AgentProcess) -> None:
    streams = [OpenStream(ended, process, tokens=60) for process in (0, 1)]
    pids = {ended.pid, *descendants(ended.pid)}
    for stream in streams:
        next(stream.lines)
    ended.ask_to_stop()
    for stream in streams:
        assert list(stream.lines)[-1] == "data: [DONE]"
        stream.close()
    assert ended.wait_ended() == 0
    assert not alive(pids)


def test_a_process_that_is_asked_to_end_finishes_its_streams(slow: AgentProcess) -> None:
    stream = OpenStream(slow, 1, tokens=60)
    next(stream.lines)
    (process,) = workers(slow)
    os.kill(process, signal.SIGTERM)
    assert list(stream.lines)[-1] == "data: [DONE]"
    stream.close()
    wait_until(lambda: workers(slow) - {process}, "another process was started")
    wait_until(lambda: metric(slow, "covey_gateway_processes", local(slow)) == 2, "it listens")


def test_what_does_not_finish_is_cut_off_at_the_end_of_the_grace(ended: AgentProcess) -> None:
    stream = OpenStream(ended, 1, tokens=2000)
    next(stream.lines)
    pids = {ended.pid, *descendants(ended.pid)}
    assert call_covey(ended.state_dir, "down", "--grace", "0.5")["stopped"] is True
    wait_until(lambda: not alive(pids), "nothing is left")
    with pytest.raises(httpx.TransportError):
        list(stream.lines)
    stream.close()


def test_a_second_interrupt_ends_all_at_once(ended: AgentProcess) -> None:
    stream = OpenStream(ended, 1, tokens=2000)
    next(stream.lines)
    pids = {ended.pid, *descendants(ended.pid)}
    ended.interrupt()
    wait_until(lambda: "stopping" in ended.last_lines(), "the first interrupt is seen")
    ended.interrupt()
    assert ended.wait_ended() == 130
    wait_until(lambda: not alive(pids), "nothing is left")
    stream.close()


def test_a_leaders_death_fails_no_request_of_any_process() -> None:
    """Asks, the wait for a new leader and attempts on other machines, through processes that only hear of it all."""
    made = AgentPool(("anna", "ben"), ("--gateway-processes", "2"))
    try:
        made.start()
        leader = made.leader()
        (entry,) = (agent for agent in made.agents.values() if agent is not leader)
        for _ in range(3):
            assert CLIENT.post(url(entry, CHAT), json=chat(f"only-{leader.name}")).status_code == 200
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            asked = [threads.submit(CLIENT.post, url(entry, CHAT), json=chat(tokens=6)) for _ in range(60)]
            leader.kill()
            answers = [each.result() for each in asked]
        assert {answer.status_code for answer in answers} == {200}
        assert {process_of(answer.headers["x-request-id"]) for answer in answers} >= {1}
        made.wait_whole([entry.name])
        answer = taken_by(entry, 1, chat())
        found = call_covey(entry.state_dir, "explain", answer.headers["x-request-id"])
        assert found["decisions"][-1]["decided_by"] == "leader"
    finally:
        made.close()


def test_keys_hold_in_every_process_and_stand_on_no_command_line() -> None:
    key = "a key that nobody guesses 123456"
    made = AgentPool(("anna",), ("--gateway-processes", "2", "--key-on-loopback"))
    anna = made.agents["anna"]
    anna._secret["COVEY_KEYS"] = f"alice={key}"
    try:
        call_covey(anna.state_dir, "init", "--name", "test")
        anna.start()
        anna.wait_answering()
        get = local(anna)
        wait_until(lambda: '"ready"' in get("/ready"), "a model is ready")
        headers = {"authorization": f"Bearer {key}"}
        for path in ("/v1/models", "/metrics", "/v1/files", "/covey/v1/pool"):
            found = {CLIENT.get(url(anna, path)).status_code for _ in range(5)}
            assert found == {401}
            assert {CLIENT.get(url(anna, path), headers=headers).status_code for _ in range(5)} == {200}
        answers = [CLIENT.post(url(anna, CHAT), json=chat(), headers=headers) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert {process_of(answer.headers["x-request-id"]) for answer in answers} >= {1}
        assert {CLIENT.post(url(anna, CHAT), json=chat()).status_code for _ in range(5)} == {401}
        (worker,) = workers(anna)
        assert key.encode() not in command_line(worker)
    finally:
        made.close()


def test_an_address_in_use_is_refused_and_not_shared(pool: AgentPool, tmp_path: Path) -> None:
    command = covey_command(
        tmp_path, "up", "--http", pool.agents["anna"].addresses.http, "--gateway-processes", "2", "--no-mdns",
        "--grpc", "127.0.0.1:0", "--link", "127.0.0.1:0", "--enrol", "127.0.0.1:0",
        "--runtime-dir", str(tmp_path / "r"),
    )  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 1
    assert "cannot listen on" in done.stderr


def test_commands_speak_to_the_agent_as_ever(pool: AgentPool) -> None:
    found = AgentClient.local(pool.agents["ben"].state_dir).get("/covey/v1/pool")
    assert len(found["members"]) == 2
    through = pool.agents["ben"].client.get("/covey/v1/pool")
    assert through["node_id"] == found["node_id"]
