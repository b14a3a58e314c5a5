"""Reads a model directory: `config.json` must be there; `covey.json` beside it may say how to serve the model.

covey.json: {"task": "generate", "extra_args": ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]}, with
task "generate" or "embed". Both fields are optional; the configuration's own extra_args come later on the command
line and win. Without a task, a sentence-transformers directory (modules.json) is for embeddings.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from covey_mesh.core.facts import Task

CARD_BYTES_MAX = 64 * 1024
EXTRA_ARGS_MAX = 64


class ModelCardError(Exception):
    """The directory cannot be served as it is; the message says why."""


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=False):
    """`task` None: not said."""

    task: Task | None = None
    extra_args: tuple[str, ...] = ()


def read_card(directory: str) -> ModelCard:
    """Raises ModelCardError for a path that is no model directory, and for a malformed covey.json."""
    folder = Path(directory)
    if not (folder / "config.json").is_file():
        raise ModelCardError(f"{directory} is not a Hugging Face model directory: it has no config.json")
    card = _covey_json(folder / "covey.json")
    if card.task is None and (folder / "modules.json").is_file():
        return ModelCard(Task.EMBED, card.extra_args)
    return card


def _covey_json(path: Path) -> ModelCard:
    if not path.is_file():
        return ModelCard()
    try:
        with path.open("rb") as file:
            card = msgspec.json.decode(file.read(CARD_BYTES_MAX), type=ModelCard)
    except (OSError, msgspec.DecodeError) as error:
        raise ModelCardError(f"{path}: {error}") from error
    if len(card.extra_args) > EXTRA_ARGS_MAX:
        raise ModelCardError(f"{path}: at most {EXTRA_ARGS_MAX} extra_args")
    return card
