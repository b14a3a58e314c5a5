"""covey batch: a file of requests, sent, watched and fetched; or an earlier one, found again, or cancelled.

What is shown while it runs is in batch_screen.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from covey.cli.invocation import Invocation, common_options
from covey.errors import ExitCode, RefusedError, UserError

if TYPE_CHECKING:
    from covey.cli.agent_client import AgentClient
    from covey.cli.batch_screen import BatchScreen

POLL_S = 0.5
FIRST_LINE_BYTES_MAX = 40 * 2**20
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
MISTAKES_SHOWN = 10
ONLY_ONE = "give either FILE, --resume ID, --cancel ID or --list"


@click.command()
@click.argument(
    "requests", metavar="[FILE]", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Results; default: beside FILE.")
@click.option("--window", default="24h", show_default=True, help="Give up what is not answered by then: 90m, 24h, 7d.")
@click.option("--no-wait", is_flag=True, help="Send it, print its id, and do not wait for the results.")
@click.option("--force", is_flag=True, help="Write over results that are already there.")
@click.option("--resume", metavar="ID", help="Watch and fetch a batch that was sent before.")
@click.option("--cancel", metavar="ID", help="Stop a batch; lines answered so far are kept.")
@click.option("--list", "show_list", is_flag=True, help="The latest batches, newest first.")
@common_options
def batch(
    invocation: Invocation,
    requests: Path | None,
    output: Path | None,
    window: str,
    no_wait: bool,
    force: bool,
    resume: str | None,
    cancel: str | None,
    show_list: bool,
) -> None:
    """Have a FILE of requests answered by the whole pool, and write the results beside it.

    FILE has one request a line, in OpenAI's form: {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
    "body": {"model": ...}}. For lines.jsonl, answers go to lines.output.jsonl and lines that failed to
    lines.errors.jsonl, in the order of the input. People who use the pool meanwhile go first.

    The machine that takes the batch keeps it: Ctrl-C leaves it running, and prints how to come back. Exit code 0 if
    every line was answered, else 1.
    """
    if sum((requests is not None, resume is not None, cancel is not None, show_list)) != 1:
        raise UserError(ONLY_ONE, "see `covey batch --help`", ExitCode.USAGE)
    agent = invocation.agent()
    if show_list:
        invocation.show(agent.get("/v1/batches?limit=100"), _listed)
    elif cancel is not None:
        made = agent.post(f"{_path(cancel)}/cancel", {})
        invocation.show(made, lambda found: f"{found['id']} {found['status']}; `covey batch --resume {cancel}` fetches")
    else:
        usual = Path(f"{resume}.output.jsonl") if requests is None else _beside(requests)
        _run(invocation, agent, requests, resume, window, _Targets(output or usual, force), no_wait)


def _beside(requests: Path) -> Path:
    return requests.with_name(f"{requests.name.removesuffix('.jsonl')}.output.jsonl")


class _Targets:
    """Where results go. Nothing is written over unasked."""

    def __init__(self, output: Path, force: bool) -> None:
        self.output = output
        stem = output.name.removesuffix(".jsonl").removesuffix(".output")
        self.errors = output.with_name(f"{stem}.errors.jsonl")
        for path in (self.output, self.errors):
            if path.exists() and not force:
                raise UserError(f"{path} is already there", "name another with --output, or give --force")
        if not output.parent.is_dir():
            raise UserError(f"there is no folder {output.parent}", "make it, or name another with --output")


def _run(
    invocation: Invocation,
    agent: AgentClient,
    file: Path | None,
    resume: str | None,
    window: str,
    targets: _Targets,
    no_wait: bool,
) -> None:
    from covey.cli.batch_screen import screen_for

    screen = screen_for(invocation.as_json)
    batch_id, asked = resume, False
    try:
        with screen:
            if file is not None:
                wish = _send(agent, file, window, screen)
                asked = True
                batch_id = str(agent.post("/v1/batches", wish)["id"])
            assert batch_id is not None
            found = agent.get(_path(batch_id)) if no_wait else _watch(agent, batch_id, screen)
        if no_wait:
            invocation.show(found, lambda _: _come_back(batch_id or "", targets.output))
            return
        _finish(invocation, agent, found, targets)
    except KeyboardInterrupt:
        _left(batch_id, asked, targets.output)
        click.get_current_context().exit(int(ExitCode.INTERRUPTED))


def _send(agent: AgentClient, file: Path, window: str, screen: BatchScreen) -> dict[str, Any]:
    """Uploads the requests; returns the batch to ask for."""
    endpoint = _endpoint(file)
    size = file.stat().st_size
    sent = agent.send_file("/v1/files", {"purpose": "batch"}, file, lambda count: screen.sending(count, size))
    wish = {"input_file_id": sent["id"], "endpoint": endpoint, "completion_window": window}
    return {**wish, "metadata": {"file": file.name[:500]}}


def _endpoint(file: Path) -> str:
    """Of the first request; the agent checks that all have the same. Raises UserError."""
    with file.open("rb") as source:
        while line := source.readline(FIRST_LINE_BYTES_MAX):
            if not line.strip():
                continue
            try:
                return str(json.loads(line.removeprefix(b"\xef\xbb\xbf"))["url"])
            except (ValueError, KeyError, TypeError, RecursionError):
                break
    raise UserError(
        f"{file} does not begin with a request",
        'each line is such as {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {...}}',
    )


def _watch(agent: AgentClient, batch_id: str, screen: BatchScreen) -> Any:
    """Until it has ended. An agent that is away (a restart) is waited for: the batch goes on when it is back."""
    while True:
        try:
            found = agent.get(_path(batch_id))
        except UserError as error:
            if not _may_come_back(error):
                raise
            screen.away(str(error))
        else:
            screen.running(found)
            if found["status"] in ENDED:
                return found
        time.sleep(POLL_S)


def _may_come_back(error: UserError) -> bool:
    if isinstance(error, RefusedError):
        return error.status in (408, 429, 502, 503, 504)
    return error.exit_code is ExitCode.NO_AGENT


def _finish(invocation: Invocation, agent: AgentClient, found: Any, targets: _Targets) -> None:
    files: dict[str, str | None] = {"output": None, "errors": None}
    for name, key, target in (
        ("output", "output_file_id", targets.output),
        ("errors", "error_file_id", targets.errors),
    ):
        if found[key]:
            agent.save(f"/v1/files/{quote(found[key], safe='')}/content", target)
            files[name] = str(target)
    invocation.show({**found, "files": files}, _ending)
    counts = found["request_counts"]
    done = found["status"] == "completed" and not counts["failed"]
    click.get_current_context().exit(int(ExitCode.DONE if done else ExitCode.FAILED))


def _ending(content: Any) -> str:
    counts, files = content["request_counts"], content["files"]
    lines = [f"{content['id']} {content['status']}: {counts['completed']} answered, {counts['failed']} failed"]
    for error in ((content["errors"] or {}).get("data") or [])[:MISTAKES_SHOWN]:
        where = "" if error["line"] is None else f"line {error['line']}: "
        lines.append(f"  {where}{error['message']} ({error['code']})")
    if files["output"]:
        lines.append(f"  answers  {files['output']}")
    if files["errors"]:
        lines.append(f"  failed   {files['errors']}")
    return "\n".join(lines)


def _listed(content: Any) -> str:
    """Plain text: an id must not be folded to the width of the terminal."""
    rows = [("BATCH", "STATUS", "LINES", "ANSWERED", "FAILED", "FILE", "ON")]
    for found in content["data"]:
        counts = found["request_counts"]
        figures = [str(counts[name]) for name in ("total", "completed", "failed")]
        file, machine = (found["metadata"] or {}).get("file", ""), (found.get("covey") or {}).get("machine", "")
        rows.append((found["id"], found["status"], *figures, file, machine))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def _left(batch_id: str | None, asked: bool, output: Path) -> None:
    if batch_id is not None:
        click.echo(_come_back(batch_id, output), err=True)
    elif asked:
        click.echo("interrupted while the batch was being made: `covey batch --list` shows whether it runs", err=True)
    else:
        click.echo("interrupted before the batch was made: nothing runs", err=True)


def _come_back(batch_id: str, output: Path) -> str:
    return (
        f"{batch_id} goes on by itself\n"
        f"  watch and fetch  covey batch --resume {batch_id} --output {output}\n"
        f"  stop it          covey batch --cancel {batch_id}"
    )


def _path(batch_id: str) -> str:
    return f"/v1/batches/{quote(batch_id, safe='')}"
