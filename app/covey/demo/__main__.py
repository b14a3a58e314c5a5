"""`python -m covey.demo run` and `python -m covey.demo prove`: the demo from a shell, with clean endings."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from covey.config import SIMULATED, VLLM
from covey.demo.agent_process import DemoFailed
from covey.demo.prove import prove
from covey.demo.screen import Screen
from covey.demo.stay import stay


def _interrupt(number: int, frame: FrameType | None) -> None:
    """SIGTERM and a closed terminal end the demo as Ctrl-C does: cleaned up."""
    raise KeyboardInterrupt


@click.command()
@click.argument("what", type=click.Choice(["run", "prove"]))
@click.option("--engine", type=click.Choice([VLLM, SIMULATED]), default=VLLM, help="simulated: no vLLM, made-up words.")
def main(what: str, engine: str) -> None:
    """A real pool of two agents on this machine."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    screen = Screen()
    try:
        (stay if what == "run" else prove)(screen, engine)
    except DemoFailed as failure:
        screen.close()
        click.echo(f"\nThe demo failed: {failure}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        screen.close()
        click.echo("\nended; nothing was left behind", err=True)
        sys.exit(0 if what == "run" else 130)


if __name__ == "__main__":
    main()
