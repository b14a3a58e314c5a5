"""The top of the command line: options that every command shares, and what happens to a user's mistake."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from covey import __version__
from covey.cli.batch import batch
from covey.cli.chat import chat
from covey.cli.control import doctor, down, drain
from covey.cli.invocation import Invocation
from covey.cli.joining import init, invite, join
from covey.cli.look import explain, models, ps, speeds
from covey.cli.up import up
from covey.cli.version import config, version
from covey.errors import UserError
from covey.terminal import harmless


class ReportingGroup(click.Group):
    """Turns a UserError into two lines and its exit code; everything else stays a traceback, since it is our bug."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            _report(error, ctx.find_object(Invocation))
            ctx.exit(int(error.exit_code))


def _report(error: UserError, invocation: Invocation | None) -> None:
    if invocation is not None and invocation.as_json:
        content = {"message": str(error), "next_step": error.next_step, "exit_code": int(error.exit_code)}
        click.echo(json.dumps({"error": content}))
        return
    click.secho(harmless(f"error: {error}"), fg="red", err=True)
    if error.next_step:
        click.echo(harmless(f"  next: {error.next_step}"), err=True)


@click.group(cls=ReportingGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="covey")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Keys and settings of this machine's agent.")
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file instead of the usual ones.")
@click.option("--endpoint", help="URL of another agent, such as http://covey.local:8080 (also COVEY_ENDPOINT).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text for people.")
@click.option("-v", "--verbose", count=True, help="Log more: -v what happens, -vv everything.")
@click.pass_context
def cli(
    ctx: click.Context, state_dir: Path | None, file: Path | None, endpoint: str | None, as_json: bool, verbose: int
) -> None:
    """The GPUs already standing in an office, as one AI endpoint.

    Start with `covey up --model PATH` on one machine; `covey invite` there prints what to run on the next.
    """
    ctx.obj = Invocation(state_dir=state_dir, file=file, endpoint=endpoint, as_json=as_json, verbose=verbose)


for command in (init, invite, join, up, ps, models, speeds, chat, batch, explain, doctor, drain, down, config, version):
    cli.add_command(command)
