"""The covey command: documented as it is, light to start, JSON of a stable shape, errors that say what to do.

A small HTTP server on a Unix socket stands in for the agent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import http.server
import json
import os
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import click
import pytest
from click.testing import CliRunner, Result

from covey.cli.group import cli
from covey.errors import UserError
from covey.running import LOCK_NAME, leave_note, only_agent, running_agent
from covey_mesh.io.identity import load
from covey_mesh.io.invitations import Invitations

ROOT = Path(__file__).resolve().parents[2]
ANNA, BEN = "a" * 32, "b" * 32


def model_load(**changes: Any) -> dict[str, Any]:
    plain = {
        "model": "tiny", "state": "ready", "engine": "vllm", "task": "generate", "max_context_tokens": 2048,
        "running_requests": 1, "waiting_requests": 0, "running_limit": 8, "waiting_limit": 8, "queued_tokens": 10,
        "kv_cache_tokens_total": 100, "kv_cache_tokens_free": 50, "prefill_tokens_per_s": 100.0,
        "decode_tokens_per_s": 40.0, "detail": "", "restarts": 0,
    }  # fmt: skip
    return {**plain, **changes}


def member(node_id: str, name: str, **changes: Any) -> dict[str, Any]:
    gpu = {
        "index": 0, "uuid": "GPU-1", "name": "RTX", "memory_total_bytes": 2**34, "memory_free_bytes": 2**33,
        "utilization_percent": 7, "power_w": None, "temperature_c": None, "foreign_processes": 0,
    }  # fmt: skip
    load = {
        "node_id": node_id, "incarnation": 1, "sequence": 1, "gpus": [gpu], "models": [model_load()],
        "draining": False, "memory_free_bytes": 1,
    }  # fmt: skip
    facts = {"node_id": node_id, "name": name, "version": "0.1.0", "link_addresses": [], "gateway_addresses": []}
    plain = {"facts": facts, "load": load, "reachable": True, "round_trip_ms": 0.4, "silent_for_s": 0.0}
    return {**plain, **changes}


POOL = {
    "pool_id": "c" * 32,
    "pool_name": "office",
    "node_id": ANNA,
    "leader_node_id": BEN,
    "ballot": {"counter": 3, "node_id": BEN},
    "view_version": 9,
    "members": [
        member(ANNA, "anna"),
        member(BEN, "ben", reachable=False, silent_for_s=3.2, load=None),
    ],
    "models": [{"model": "tiny", "task": "generate", "max_context_tokens": 2048, "node_ids": [ANNA]}],
    "queued_requests": 0,
}
SPEEDS = {
    "speeds": [
        {
            "node_id": ANNA, "name": "anna", "model": "tiny", "engine": "vllm", "reachable": True, "state": "ready",
            "source": "learned", "prefill_tokens_per_s": 900.0, "decode_tokens_per_s": 50.0,
            "prefill": [[100, 900.0]], "decode": [{"batch": 1, "context_tokens": 10, "step_s": 0.02}],
            "steps": [{"batch": 1, "step_ms": 20.0, "measured": True}], "load_s": 3.0, "confidence": 0.5,
            "observations": 9, "spread": 0.1, "age_s": 4.0, "slower": 1.0,
        }
    ]
}  # fmt: skip
EXPLAINED = {
    "request_id": "req-1",
    "gateway_node_id": ANNA,
    "decisions": [
        {
            "request_id": "req-1", "attempt": 1, "model": "tiny", "decided_at_unix_s": 0.0, "decided_by": "leader",
            "decider_node_id": BEN, "ballot": {"counter": 3, "node_id": BEN}, "view_version": 9,
            "outcome": "assigned", "chosen_node_id": ANNA, "policy": "predicted", "queued_for_s": 0.0,
            "candidates": [
                {"node_id": ANNA, "rejected_because": "", "first_token_s": 0.1, "last_token_s": 1.0,
                 "terms_s": {"prefill": 0.1}},
                {"node_id": BEN, "rejected_because": "draining", "first_token_s": None, "last_token_s": None,
                 "terms_s": {}},
            ],
        }
    ],
    "attempts": [{"attempt": 1, "node_id": ANNA, "outcome": "completed", "first_byte_s": 0.1, "total_s": 1.0}],
    "status": 200,
}  # fmt: skip


CUT = {
    **EXPLAINED, "request_id": "req-2", "decisions": [], "attempts": [], "part_of": "",
    "parts": [
        {"request_id": "req-2.0", "begin": 0, "end": 40, "node_id": ANNA, "status": 200, "error": "", "total_s": 1.25},
        {"request_id": "req-2.1", "begin": 40, "end": 41, "node_id": "", "status": 0, "error": "", "total_s": None},
    ],
}  # fmt: skip
PART = {
    **EXPLAINED, "request_id": "req-2.0", "part_of": "req-2", "parts": [],
    "attempts": [{"attempt": 1, "node_id": BEN, "outcome": "link_lost", "first_byte_s": None, "total_s": 0.5}],
}  # fmt: skip


class FakeAgent(http.server.BaseHTTPRequestHandler):
    """Answers as an agent would; keeps what was posted."""

    posted: list[tuple[str, Any]]

    def do_GET(self) -> None:
        pages = {"/covey/v1/pool": POOL, "/covey/v1/speeds": SPEEDS, "/covey/v1/explain/req-1": EXPLAINED}
        pages |= {"/covey/v1/explain/req-2": CUT, "/covey/v1/explain/req-2.0": PART}
        found = pages.get(self.path)
        self._send(200 if found else 404, found or {"error": {"message": "nobody remembers that request"}})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.posted.append((self.path, body))
        if self.path == "/v1/chat/completions":
            self._stream("Hel", "lo")
        elif self.path == "/covey/v1/invite":
            self._send(200, {"token": "covey1-token", "expires_unix_s": 0})
        elif self.path == "/covey/v1/revoke-invitations":
            self._send(200, {"revoked": True})
        else:
            self._send(200, {"draining": body.get("draining")})

    def _send(self, status: int, content: Any) -> None:
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _stream(self, *pieces: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("x-request-id", "req-1")
        self.send_header("x-covey-node", "anna")
        self.end_headers()
        for piece in pieces:
            event = {"choices": [{"index": 0, "delta": {"content": piece}}]}
            self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *args: object) -> None:
        pass


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@pytest.fixture
def state_dir() -> Iterator[Path]:
    """Short, since Unix sockets live near it."""
    with tempfile.TemporaryDirectory(prefix="covey-cli-") as folder:
        yield Path(folder)


@pytest.fixture
def agent(state_dir: Path) -> Iterator[list[tuple[str, Any]]]:
    """A running agent of `state_dir`; yields what is posted to it."""
    handler = type("Handler", (FakeAgent,), {"posted": []})
    path = state_dir / "agent.sock"
    with UnixServer(str(path), handler) as server, (state_dir / LOCK_NAME).open("w") as lock:
        # The lock belongs to an open file, so that this process can be both agent and command.
        fcntl.flock(lock, fcntl.LOCK_EX)
        leave_note(state_dir, path, "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield handler.posted  # type: ignore[attr-defined]
        finally:
            server.shutdown()
            thread.join()


def run(state_dir: Path, *arguments: str, text: str | None = None) -> Result:
    environ = {name: None for name in os.environ if name.startswith("COVEY_")}
    return CliRunner().invoke(cli, ["--state-dir", str(state_dir), *arguments], input=text, env=environ)


def every_command() -> dict[str, click.Command]:
    return dict(cli.commands)


@pytest.mark.parametrize("name", sorted(every_command()))
def test_every_command_and_option_is_documented(name: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    assert f"### covey {name}\n" in text
    command = every_command()[name]
    assert command.help
    for parameter in command.params:
        for option in [*parameter.opts, *parameter.secondary_opts]:
            if option.startswith("--"):
                assert f"`{option}`" in text, f"docs/cli.md does not mention {option} of covey {name}"


def test_options_of_every_command_are_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for parameter in cli.params:
        for option in parameter.opts:
            assert f"`{option}`" in text


def test_help_is_light() -> None:
    """Help and errors must not wait for gRPC, cryptography or rich."""
    heavy = ("grpc", "cryptography", "rich", "zeroconf", "uvloop", "google.protobuf", "prometheus_client")
    program = (
        "import sys; from covey.cli.group import cli\n"
        "try: cli(['--help'])\nexcept SystemExit: pass\n"
        f"sys.exit(','.join(m for m in {heavy!r} if m in sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_ps_without_an_agent_says_what_to_do(state_dir: Path) -> None:
    result = run(state_dir, "ps")
    assert result.exit_code == 3
    assert "no covey agent is running" in result.stderr
    assert "covey up" in result.stderr


def test_errors_are_json_where_asked(state_dir: Path) -> None:
    result = run(state_dir, "--json", "ps")
    error = json.loads(result.stdout)["error"]
    assert set(error) == {"message", "next_step", "exit_code"}
    assert error["exit_code"] == result.exit_code == 3


def test_a_note_left_by_a_killed_agent_is_not_believed(state_dir: Path) -> None:
    leave_note(state_dir, state_dir / "agent.sock", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    (state_dir / LOCK_NAME).touch()
    assert running_agent(state_dir) is None


def test_a_state_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to") as caught, only_agent(tmp_path / "file" / "state"):
        pass
    assert "--state-dir" in caught.value.next_step


def test_a_full_disk_is_no_traceback(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(Path, "write_text", Mock(side_effect=full))
    with pytest.raises(UserError, match="No space left"):
        leave_note(state_dir, state_dir / "agent.sock", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")


@pytest.mark.usefixtures("agent")
def test_ps_shows_machines_and_leader(state_dir: Path) -> None:
    result = run(state_dir, "ps")
    assert result.exit_code == 0, result.output
    assert "led by ben" in result.stdout
    for text in ("anna", "silent 3 s", "tiny", "GiB free"):
        assert text in result.stdout


@pytest.mark.usefixtures("agent")
@pytest.mark.parametrize("arguments", [("ps", "--json"), ("--json", "ps"), ("models", "--json")])
def test_json_of_ps_and_models_is_the_pool_message(state_dir: Path, arguments: tuple[str, ...]) -> None:
    assert json.loads(run(state_dir, *arguments).stdout) == POOL


@pytest.mark.usefixtures("agent")
def test_models_names_machines(state_dir: Path) -> None:
    result = run(state_dir, "models")
    assert "tiny" in result.stdout
    assert "anna" in result.stdout


@pytest.mark.usefixtures("agent")
def test_speeds_of_all_models_and_of_one(state_dir: Path) -> None:
    result = run(state_dir, "speeds")
    assert "100: 900" in result.output
    assert "1: 20.0" in result.output
    assert json.loads(run(state_dir, "speeds", "tiny", "--json").output) == SPEEDS
    missing = run(state_dir, "speeds", "huge")
    assert missing.exit_code == 4
    assert "tiny" in missing.output


@pytest.mark.usefixtures("agent")
def test_explain_shows_the_parts_of_a_cut_request(state_dir: Path) -> None:
    shown = run(state_dir, "explain", "req-2").output
    lines = [line.split() for line in shown.splitlines() if "req-2." in line]
    assert lines == [
        ["req-2.0", "0", "to", "39", "anna", "200", "1.250", "s"],
        ["req-2.1", "40", "-", "running", "-"],
    ]
    part = run(state_dir, "explain", "req-2.0").output
    assert "a part of req-2" in part
    assert "attempt 1 on ben: link_lost, first byte after -, 0.500 s in all" in part


@pytest.mark.usefixtures("agent")
def test_explain_shows_every_machine_with_its_reason(state_dir: Path) -> None:
    result = run(state_dir, "explain", "req-1")
    assert result.exit_code == 0, result.output
    for text in ("status 200", "draining", "0.100 s", "completed"):
        assert text in result.stdout


@pytest.mark.usefixtures("agent")
def test_an_unknown_request_is_not_found(state_dir: Path) -> None:
    assert run(state_dir, "explain", "other").exit_code == 4


def test_chat_streams_one_answer(state_dir: Path, agent: list[tuple[str, Any]]) -> None:
    result = run(state_dir, "chat", "Say", "hello", "--temperature", "0", "--system", "Be kind.")
    assert result.exit_code == 0, result.output
    assert result.stdout == "Hello\n"
    path, body = agent[-1]
    assert path == "/v1/chat/completions"
    assert body["model"] == "tiny"
    assert body["temperature"] == 0
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["messages"][-1]["content"] == "Say hello"


@pytest.mark.usefixtures("agent")
def test_chat_reads_a_pipe_and_answers_in_json(state_dir: Path) -> None:
    content = json.loads(run(state_dir, "chat", "--json", text="Say hello").stdout)
    assert set(content) == {"text", "model", "machine", "request_id", "first_token_s", "total_s"}
    assert (content["text"], content["machine"], content["request_id"]) == ("Hello", "anna", "req-1")


def test_drain_and_its_undo(state_dir: Path, agent: list[tuple[str, Any]]) -> None:
    assert run(state_dir, "drain").exit_code == 0
    assert run(state_dir, "drain", "--undo").exit_code == 0
    assert run(state_dir, "drain", "--grace", "3").exit_code == 0
    assert agent == [
        ("/covey/v1/drain", {"draining": True}),
        ("/covey/v1/drain", {"draining": False}),
        ("/covey/v1/drain", {"draining": True, "grace_s": 3.0}),
    ]


def test_down_without_an_agent_is_no_error(state_dir: Path) -> None:
    result = run(state_dir, "down", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"stopped": False, "reason": "not running"}


def test_a_bad_setting_is_a_usage_error(state_dir: Path) -> None:
    (state_dir / "covey.toml").write_text("modles = []")
    result = run(state_dir, "config")
    assert result.exit_code == 2
    assert "did you mean models?" in result.stderr


def test_config_shows_sources_and_hides_keys(state_dir: Path) -> None:
    (state_dir / "covey.toml").write_text('name = "anna"\n[keys]\nalice = "a-secret-that-must-not-show"')
    result = run(state_dir, "config", "--json")
    content = json.loads(result.stdout)
    assert content["name"] == {"value": "anna", "source": str(state_dir / "covey.toml")}
    assert content["keys"]["value"] == ["alice"]
    assert "secret" not in result.stdout


def test_version_names_the_engine(state_dir: Path) -> None:
    assert set(json.loads(run(state_dir, "version", "--json").stdout)) == {"covey", "python", "compiled", "engine"}


def test_an_endpoint_that_is_no_address_is_a_usage_error(state_dir: Path) -> None:
    assert run(state_dir, "--endpoint", "ftp://x", "ps").exit_code == 2


def test_an_endpoint_that_does_not_answer(state_dir: Path) -> None:
    with contextlib.closing(__import__("socket").socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        result = run(state_dir, "--endpoint", f"http://127.0.0.1:{taken.getsockname()[1]}", "ps")
    assert result.exit_code == 3
    assert "does not answer" in result.stderr


def test_an_agent_is_stopped_on_its_own_machine_only(state_dir: Path, agent: list[tuple[str, Any]]) -> None:
    result = run(state_dir, "down", "--endpoint", "http://127.0.0.1:1")
    assert result.exit_code == 2
    assert not agent


def test_invite_asks_the_running_agent(state_dir: Path, agent: list[tuple[str, Any]]) -> None:
    result = run(state_dir, "invite", "--valid", "5")
    assert "covey join covey1-token" in result.stdout
    assert agent == [("/covey/v1/invite", {"valid_minutes": 5.0})]


def test_invitations_are_taken_back_by_the_running_agent(state_dir: Path, agent: list[tuple[str, Any]]) -> None:
    assert "taken back" in run(state_dir, "invite", "--revoke-all").stdout
    assert agent == [("/covey/v1/revoke-invitations", {})]


def test_invitations_are_taken_back_without_an_agent(state_dir: Path) -> None:
    run(state_dir, "init")
    invitations = Invitations(load(state_dir))
    assert invitations.any_outstanding()
    assert json.loads(run(state_dir, "invite", "--revoke-all", "--json").stdout) == {"revoked": True}
    assert not invitations.any_outstanding()


def test_init_makes_a_pool_and_a_token_and_says_what_is_next(state_dir: Path) -> None:
    content = json.loads(run(state_dir, "init", "--name", "office", "--json").stdout)
    assert set(content) == {"pool_id", "pool_name", "node_id", "state_dir", "token", "expires_unix_s"}
    assert content["token"].startswith("covey1-")
    again = run(state_dir, "init")
    assert again.exit_code == 1
    assert "covey join --force" in again.stderr


@pytest.mark.parametrize("text", ["nonsense\n", "covey1-" + "A" * 5000, ""])
def test_join_reads_a_token_from_its_input(state_dir: Path, text: str) -> None:
    """Command lines can be read by every user of the machine."""
    result = run(state_dir, "join", "-", text=text)
    assert result.exit_code == 1
    assert "token" in result.stderr
    assert "nonsense" not in result.stderr


def test_join_refuses_what_is_no_token(state_dir: Path) -> None:
    result = run(state_dir, "join", "nonsense")
    assert result.exit_code == 1
    assert "covey invite" in result.stderr
