"""covey chat: one question, or a conversation, streamed."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from covey.cli.invocation import Invocation, common_options
from covey.errors import ExitCode, UserError
from covey.terminal import harmless

if TYPE_CHECKING:
    from covey.cli.agent_client import AgentClient

PROMPT_CHARACTERS_MAX = 8 * 2**20
"""Read from standard input at most."""

Message = dict[str, str]


@click.command()
@click.argument("words", nargs=-1, metavar="[TEXT]...")
@click.option("--model", help="Which model; needed only where the pool offers several.")
@click.option("--system", help="A system message to begin with.")
@click.option("--max-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 repeats itself, higher varies more.")
@common_options
def chat(
    invocation: Invocation,
    words: tuple[str, ...],
    model: str | None,
    system: str | None,
    max_tokens: int,
    temperature: float | None,
) -> None:
    """Ask TEXT, or talk: without TEXT a conversation until Ctrl-D."""
    agent = invocation.agent()
    options: dict[str, Any] = {"model": model or _only_model(agent), "max_tokens": max_tokens}
    if temperature is not None:
        options["temperature"] = temperature
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    if words or not sys.stdin.isatty():
        text = " ".join(words) or sys.stdin.read(PROMPT_CHARACTERS_MAX)
        messages.append({"role": "user", "content": text})
        _answer(invocation, agent, messages, options)
        return
    _converse(invocation, agent, messages, options)


def _only_model(agent: AgentClient) -> str:
    """The pool's chat model; with several the first by name that most machines serve."""
    offered = [model for model in agent.get("/covey/v1/pool")["models"] if model["task"] == "generate"]
    if not offered:
        raise UserError("no chat model is ready", "`covey ps` shows what is starting", ExitCode.NOT_FOUND)
    best: dict[str, Any] = min(offered, key=lambda model: (-len(model["node_ids"]), model["model"]))
    return str(best["model"])


def _converse(invocation: Invocation, agent: AgentClient, messages: list[Message], options: dict[str, Any]) -> None:
    click.secho(f"{options['model']}; Ctrl-D ends", dim=True, err=True)
    while True:
        try:
            text = click.prompt(click.style("you", bold=True), prompt_suffix="> ", default="", show_default=False)
        except click.Abort:
            click.echo(err=True)
            return
        if text.strip():
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": _answer(invocation, agent, messages, options)})


def _answer(invocation: Invocation, agent: AgentClient, messages: list[Message], options: dict[str, Any]) -> str:
    """Stream one answer to the screen and return its text."""
    started = time.monotonic()
    stream = agent.stream("/v1/chat/completions", {**options, "messages": messages, "stream": True})
    first_token_s: float | None = None
    pieces: list[str] = []
    for event in stream:
        piece = "".join(choice["delta"].get("content") or "" for choice in event.get("choices", []))
        if piece and first_token_s is None:
            first_token_s = time.monotonic() - started
        pieces.append(piece)
        if not invocation.as_json:
            click.echo(harmless(piece), nl=False)
    _ending(invocation, stream.headers, "".join(pieces), first_token_s, time.monotonic() - started, options["model"])
    return "".join(pieces)


def _ending(
    invocation: Invocation, headers: Any, text: str, first_token_s: float | None, total_s: float, model: str
) -> None:
    machine = headers.get("x-covey-node") or ""
    content = {
        "text": text,
        "model": model,
        "machine": machine,
        "request_id": headers.get("x-request-id", ""),
        "first_token_s": first_token_s,
        "total_s": total_s,
    }
    if invocation.as_json:
        invocation.show(content, lambda _: None)
        return
    click.echo()
    if sys.stderr.isatty():
        first = "" if first_token_s is None else f", first token after {first_token_s:.2f} s"
        click.secho(f"({harmless(machine)}{first}, request {content['request_id']})", dim=True, err=True)
