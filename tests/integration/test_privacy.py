"""Nothing that a person wrote, read or holds as a secret appears in what agents write down or tell.

Real agents at their most talkative; each secret is a word of its own that is looked for everywhere afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.support.polling import wait_until
from tests.support.real_agents import SHARED_MODEL, AgentPool

from covey.cli.agent_client import AgentClient
from covey.demo.agent_process import AgentProcess, DemoFailed, call_covey
from covey.errors import UserError
from covey_mesh.wire.v1 import inference_pb2 as wire
from covey_mesh.wire.v1.inference_pb2_grpc import InferenceStub

KEY, WRONG_KEY = "markerkeymarkerkey0001", "markerkeymarkerkey0002"
PROMPT = "markerpromptmarker"
MARK = "marker"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentPool]:
    settings = tmp_path_factory.mktemp("settings") / "covey.toml"
    settings.write_text(f'key_on_loopback = true\n[keys]\nada = "{KEY}"\n')
    settings.chmod(0o600)
    made = AgentPool(("anna", "ben"), ("--config", str(settings), "--log-level", "debug"))
    with contextlib.ExitStack() as ended:
        ended.callback(made.close)
        # These agents answer a key holder alone.
        ended.enter_context(pytest.MonkeyPatch.context()).setattr(
            AgentProcess, "client", property(lambda agent: AgentClient.at(f"http://{agent.addresses.http}", KEY))
        )
        made.start()
        yield made


def post(agent: AgentProcess, path: str, body: bytes, key: str = KEY) -> tuple[int, str]:
    """Status and request id, whatever the answer is."""
    request = urllib.request.Request(f"http://{agent.addresses.http}{path}", body)
    request.add_header("authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            answer.read()
            return answer.status, answer.headers["x-request-id"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers.get("x-request-id") or ""


def chat(model: str, **more: object) -> bytes:
    messages = [{"role": "user", "content": PROMPT}]
    return json.dumps({"model": model, "messages": messages, "max_tokens": 4, **more}).encode()


def use_everything(agent: AgentProcess) -> list[str]:
    """Requests that succeed and that fail, over every door; ids of those that have one."""
    asked = [
        post(agent, "/v1/chat/completions", chat(SHARED_MODEL)),
        post(agent, "/v1/chat/completions", chat("only-anna", stream=True)),
        post(agent, "/v1/chat/completions", chat("only-ben", stream=True)),
        post(agent, "/v1/completions", json.dumps({"model": SHARED_MODEL, "prompt": PROMPT, "max_tokens": 2}).encode()),
        post(agent, "/v1/chat/completions", chat(SHARED_MODEL, max_tokens="marker")),
        post(agent, "/v1/chat/completions", b'{"model": "shared", "messages": [{"content": "%b' % PROMPT.encode()),
        post(agent, "/v1/embeddings", json.dumps({"model": SHARED_MODEL, "input": PROMPT}).encode()),
        post(agent, f"/v1/{PROMPT}", b"{}"),
        post(agent, f"/v1/chat/completions?q={PROMPT}", chat(SHARED_MODEL)),
        post(agent, "/v1/chat/completions", chat(SHARED_MODEL), WRONG_KEY),
    ]
    assert [status for status, _ in asked[:4]] == [200] * 4
    assert asked[-1][0] == 401
    with grpc.insecure_channel(agent.addresses.grpc) as channel:
        stub = InferenceStub(channel)  # type: ignore[no-untyped-call]
        request = wire.ChatRequest(model=SHARED_MODEL, messages=[wire.ChatMessage(role="user", content=PROMPT)])
        request.sampling.max_tokens = 2
        answered = stub.Chat(request, metadata=(("authorization", f"Bearer {KEY}"),), timeout=20)
        assert answered.served.request_id
        asked.append((200, answered.served.request_id))
        for key, extra in ((KEY, "marker{"), (WRONG_KEY, "")):
            request.extra_json = extra
            with contextlib.suppress(grpc.RpcError):
                stub.Chat(request, metadata=(("authorization", f"Bearer {key}"),), timeout=20)
    return [request_id for _, request_id in asked if request_id]


def use_batches(agent: AgentProcess, other: AgentProcess, folder: Path) -> None:
    """A batch with good and bad lines, asked for at its machine and at the other."""
    path = folder / "lines.jsonl"
    for bad in (b"", b'{"custom_id": "markermark"}\n'):
        line = b'{"custom_id": "marker1", "method": "POST", "url": "/v1/chat/completions", "body": %b}\n'
        path.write_bytes(
            line % chat(SHARED_MODEL) + line.replace(b"marker1", b"marker2") % chat(SHARED_MODEL, n=-1) + bad
        )
        file = agent.client.send_file("/v1/files", {"purpose": "batch"}, path, lambda _: None)
        wish = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "1h"}
        made = agent.client.post("/v1/batches", {**wish, "metadata": {"x": PROMPT}})
        ended = wait_until(
            lambda made=made: _ended(other, made["id"]), "the batch has ended, as the other machine sees it"
        )
        assert (ended["status"], ended["request_counts"]["failed"]) == (("failed", 0) if bad else ("completed", 1))
        other.client.save(f"/v1/files/{file['id']}/content", folder / "again.jsonl")
        assert (folder / "again.jsonl").read_bytes() == path.read_bytes()


def _ended(agent: AgentProcess, batch_id: str) -> Any:
    found = agent.client.get(f"/v1/batches/{batch_id}")
    return found if found["status"] in ("completed", "failed") else None


def test_no_prompt_answer_key_or_token_is_written_down_or_told(pool: AgentPool, tmp_path: Path) -> None:
    anna, ben = pool.agents.values()
    use_batches(anna, ben, tmp_path)
    token = str(call_covey(anna.state_dir, "invite")["token"])
    with contextlib.suppress(DemoFailed):
        call_covey(ben.state_dir, "join", token)
    request_ids = use_everything(anna) + use_everything(ben)
    assert request_ids
    told = [json.dumps(agent.client.get("/covey/v1/pool")) for agent in (anna, ben)]
    explained = [json.dumps(anna.client.get(f"/covey/v1/explain/{each}")) for each in request_ids if _known(anna, each)]
    assert len(explained) >= 10, "answered requests of both machines"
    told += explained
    told += [_text(agent, "/metrics") for agent in (anna, ben)]
    told += [_text(agent, "/v1/models") for agent in (anna, ben)]
    logs = [(agent.state_dir / "agent.log").read_text() for agent in (anna, ben)]
    assert all("link" in log or "leader" in log for log in logs), "the agents were to be talkative"
    for text in (*told, *logs, *_files(anna), *_files(ben)):
        assert MARK not in text.lower()
        assert token not in text
    _check_answers_are_looked_for(anna, logs)


def _check_answers_are_looked_for(agent: AgentProcess, logs: list[str]) -> None:
    """Words of the simulated engine, as an answer holds them: five in a row are nobody's chance."""
    body = {"model": SHARED_MODEL, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    text = str(agent.client.post("/v1/chat/completions", body)["choices"][0]["message"]["content"])
    assert len(text) > 8
    assert not [log for log in [*logs, (agent.state_dir / "agent.log").read_text()] if text in log]


def _known(agent: AgentProcess, request_id: str) -> bool:
    with contextlib.suppress(UserError):
        return bool(agent.client.get(f"/covey/v1/explain/{request_id}"))
    return False


def _text(agent: AgentProcess, path: str) -> str:
    request = urllib.request.Request(f"http://{agent.addresses.http}{path}", headers={"authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return str(answer.read().decode())


def _files(agent: AgentProcess) -> Iterator[str]:
    """What the state directory holds beside the log; the one place where an invitation's secret may be is private."""
    for path in agent.state_dir.iterdir():
        if path.is_file():
            yield path.read_text(errors="replace")


@pytest.mark.parametrize("name", ["anna", "ben"])
def test_secrets_are_on_no_command_line_and_files_are_private(pool: AgentPool, name: str) -> None:
    agent = pool.agents[name]
    assert KEY not in Path(f"/proc/{agent.pid}/cmdline").read_text()
    assert agent.state_dir.stat().st_mode & 0o077 == 0
    for path in agent.state_dir.iterdir():
        if "key" in path.suffix or path.name == "invitations.json":
            assert path.stat().st_mode & 0o077 == 0, path.name
    socket_path = Path(json.loads((agent.state_dir / "running.json").read_text())["socket"])
    assert socket_path.stat().st_mode & 0o077 == 0
    assert socket_path.parent.stat().st_mode & 0o777 == 0o700
    assert socket_path.parent.stat().st_uid == os.getuid()
