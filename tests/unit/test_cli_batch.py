"""covey batch against an agent that the test plays: uploads, waiting, results, and every way to end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from covey.cli import batch as batch_module
from covey.cli.agent_client import AgentClient
from covey.cli.group import cli
from covey.errors import ExitCode, RefusedError, UserError

LINE = b'{"custom_id": "a", "method": "POST", "url": "/v1/embeddings", "body": {"model": "m"}}\n'


def found(status: str, completed: int = 0, failed: int = 0, **more: Any) -> dict[str, Any]:
    counts = {"total": 2, "completed": completed, "failed": failed}
    usual = {"id": "batch_1", "output_file_id": None, "error_file_id": None, "errors": None, "metadata": None}
    return {**usual, "status": status, "request_counts": counts, "covey": {"machine": "anna"}, **more}


class FakeAgent(AgentClient):
    """Answers `get` from a list; the last one again and again."""

    def __init__(self, *answers: Any) -> None:
        super().__init__("a test", url="http://127.0.0.1:1")
        self.answers = list(answers)
        self.posted: list[tuple[str, Any]] = []
        self.sent: list[bytes] = []

    def get(self, path: str) -> Any:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def post(self, path: str, body: Any, timeout_s: float = 1.0) -> Any:
        self.posted.append((path, body))
        return found("validating")

    def send_file(self, path: str, fields: Any, file: Path, told: Any) -> Any:
        self.sent.append(file.read_bytes())
        told(len(self.sent[-1]))
        return {"id": "file-1"}

    def save(self, path: str, target: Path) -> int:
        return target.write_bytes(path.encode())


def run(monkeypatch: pytest.MonkeyPatch, agent: FakeAgent, *arguments: str) -> Result:
    monkeypatch.setattr("covey.cli.invocation.Invocation.agent", lambda self: agent)
    monkeypatch.setattr(batch_module, "POLL_S", 0)
    return CliRunner().invoke(cli, ["batch", *arguments])


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\n" + LINE)
    return path


def test_a_file_is_sent_and_its_results_stand_beside_it(monkeypatch: pytest.MonkeyPatch, lines: Path) -> None:
    agent = FakeAgent(found("in_progress", 1), found("completed", 2, output_file_id="file-o"))
    done = run(monkeypatch, agent, str(lines), "--window", "90m")
    assert done.exit_code == 0, done.output
    assert agent.posted[0][1]["endpoint"] == "/v1/embeddings"
    assert agent.posted[0][1]["completion_window"] == "90m"
    assert (lines.parent / "lines.output.jsonl").read_text() == "/v1/files/file-o/content"
    assert not (lines.parent / "lines.errors.jsonl").exists()
    assert "2 answered, 0 failed" in done.stdout


def test_a_log_names_the_batch_at_once_and_not_every_step(monkeypatch: pytest.MonkeyPatch, lines: Path) -> None:
    away = UserError("the agent does not answer", "start it", ExitCode.NO_AGENT)
    steps = [*(found("in_progress", n) for n in range(2)), away, found("in_progress", 1), found("completed", 2)]
    said = run(monkeypatch, FakeAgent(*steps), str(lines)).stderr.splitlines()
    assert said == ["batch_1 in_progress 0/2", "waiting: the agent does not answer", "batch_1 in_progress 1/2"]


def test_failed_lines_are_an_exit_code_and_a_file(monkeypatch: pytest.MonkeyPatch, lines: Path) -> None:
    end = found("completed", 1, 1, output_file_id="file-o", error_file_id="file-e")
    done = run(monkeypatch, FakeAgent(end), str(lines), "--json")
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert Path(content["files"]["errors"]).read_text() == "/v1/files/file-e/content"


def test_a_refused_file_tells_its_mistakes(monkeypatch: pytest.MonkeyPatch, lines: Path) -> None:
    errors = {"data": [{"line": 7, "message": "bad", "code": "invalid_json_line", "param": None}]}
    done = run(monkeypatch, FakeAgent(found("failed", errors=errors)), str(lines))
    assert done.exit_code == 1
    assert "line 7: bad (invalid_json_line)" in done.stdout


def test_an_agent_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch, lines: Path) -> None:
    away = UserError("nobody there", "", ExitCode.NO_AGENT)
    owner_away = RefusedError("its machine is away", "", ExitCode.FAILED, 503)
    agent = FakeAgent(away, owner_away, found("completed", 2, output_file_id="file-o"))
    assert run(monkeypatch, agent, str(lines)).exit_code == 0


def test_an_unknown_batch_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    gone = RefusedError("No such batch", "", ExitCode.NOT_FOUND, 404)
    assert run(monkeypatch, FakeAgent(gone), "--resume", "batch_x").exit_code == 4


def test_an_unknown_batch_is_refused_with_where_to_look() -> None:
    agent = AgentClient("a test", url="http://127.0.0.1:1")
    error = agent._refusal(404, b'{"error": {"message": "No such batch"}}', "/v1/batches/batch_x")
    assert "covey batch --list" in error.next_step
    assert agent._refusal(404, b"", "/v1/models/m").next_step == ""


def test_an_interrupt_says_how_to_come_back(monkeypatch: pytest.MonkeyPatch, lines: Path) -> None:
    done = run(monkeypatch, FakeAgent(found("in_progress"), KeyboardInterrupt()), str(lines))
    assert done.exit_code == 130
    assert "covey batch --resume batch_1 --output" in done.stderr
    assert "covey batch --cancel batch_1" in done.stderr


@pytest.mark.parametrize(
    ("interrupted", "said"), [("send_file", "nothing runs"), ("post", "`covey batch --list` shows whether it runs")]
)
def test_an_interrupt_before_the_batch_has_a_name_claims_no_more_than_is_known(
    monkeypatch: pytest.MonkeyPatch, lines: Path, interrupted: str, said: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    agent = FakeAgent(found("in_progress"))
    monkeypatch.setattr(agent, interrupted, interrupt)
    done = run(monkeypatch, agent, str(lines))
    assert done.exit_code == 130
    assert said in done.stderr


def test_nothing_is_written_over_unasked(monkeypatch: pytest.MonkeyPatch, lines: Path) -> None:
    (lines.parent / "lines.errors.jsonl").write_text("mine")
    agent = FakeAgent(found("completed", 2, error_file_id="file-e"))
    refused = run(monkeypatch, agent, str(lines))
    assert refused.exit_code == 1
    assert "--force" in refused.stderr
    assert not agent.sent
    assert run(monkeypatch, agent, str(lines), "--force").exit_code == 0
    assert (lines.parent / "lines.errors.jsonl").read_text() == "/v1/files/file-e/content"


def test_without_waiting_only_the_id_is_printed(monkeypatch: pytest.MonkeyPatch, lines: Path) -> None:
    done = run(monkeypatch, FakeAgent(found("validating")), str(lines), "--no-wait")
    assert (done.exit_code, "--resume batch_1" in done.stdout) == (0, True)


def test_the_list_and_cancelling(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = run(monkeypatch, FakeAgent({"data": [found("completed", 2, metadata={"file": "x.jsonl"})]}), "--list")
    assert listed.stdout.splitlines()[1].split() == ["batch_1", "completed", "2", "2", "0", "x.jsonl", "anna"]
    agent = FakeAgent({})
    assert run(monkeypatch, agent, "--cancel", "batch_1").exit_code == 0
    assert agent.posted == [("/v1/batches/batch_1/cancel", {})]


@pytest.mark.parametrize("arguments", [(), ("--list", "--resume", "x"), ("--resume", "x", "--cancel", "y")])
def test_one_thing_at_a_time(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    assert run(monkeypatch, FakeAgent({}), *arguments).exit_code == 2


@pytest.mark.parametrize("content", [b"", b"no json\n", b"[]\n", b'{"url_": 1}\n'])
def test_a_file_without_requests_is_not_sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(content)
    agent = FakeAgent({})
    assert run(monkeypatch, agent, str(path)).exit_code == 1
    assert not agent.sent


def test_help_is_worth_reading() -> None:
    text = " ".join(CliRunner().invoke(cli, ["batch", "--help"]).output.split())
    assert isinstance(cli.commands["batch"], click.Command)
    for words in ('"custom_id"', "Ctrl-C leaves it running", "--resume ID", "lines.output.jsonl"):
        assert words in text
