"""From the words of the `models` setting to what the node runs.

A word is a local Hugging Face directory, NAME=DIRECTORY, or one of covey's demo models, which show that the plumbing
works and know next to nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

from covey.config import SIMULATED, Configuration
from covey.errors import ConfigurationError
from covey_mesh.core.facts import Task
from covey_node.core.settings import ModelSpec, SettingsError
from covey_node.core.simulated import SimulatedSettings

DEMO_FOLDER = Path(__file__).resolve().parent / "demo_models"
DEMO_MODELS = {"demo": "covey-demo-chat", "demo-embed": "covey-demo-embed"}
# What the weights' own configuration says of models that turn text into vectors instead of more text.
_EMBEDDING_ARCHITECTURES = ("BertModel", "RobertaModel", "XLMRobertaModel", "NomicBertModel", "ModernBertModel")


def model_specs(configuration: Configuration) -> tuple[ModelSpec, ...]:
    """What the node shall run. Raises ConfigurationError."""
    specs = tuple(_spec(word, configuration) for word in configuration.models)
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"two models are called {name}", "name one of them: --model NAME=DIRECTORY")
    return specs


def _spec(word: str, configuration: Configuration) -> ModelSpec:
    name, path = _named(word)
    simulated = configuration.engine == SIMULATED
    if not simulated:
        _check_directory(word, path)
    try:
        return ModelSpec(
            name=name,
            path="" if simulated else str(path),
            engine=configuration.engine,
            task=Task.EMBED if name == DEMO_MODELS["demo-embed"] else _task_of(path),
            extra_args=configuration.engine_arguments,
            max_context_tokens=configuration.context_tokens_max or None,
            kv_cache_bytes=configuration.kv_cache_bytes or None,
            running_limit=configuration.running_requests_max or None,
            gpu_memory_utilization=configuration.gpu_memory_utilization,
            simulated=SimulatedSettings(
                prefill_tokens_per_s=configuration.simulated_prefill_tokens_per_s,
                decode_tokens_per_s=configuration.simulated_decode_tokens_per_s,
            ),
        ).validated()
    except SettingsError as error:
        raise ConfigurationError(str(error), "see docs/configuration.md") from None


def _named(word: str) -> tuple[str, Path]:
    if word in DEMO_MODELS:
        return DEMO_MODELS[word], DEMO_FOLDER / DEMO_MODELS[word]
    name, separator, directory = word.partition("=")
    if separator:
        return name, Path(directory).expanduser()
    path = Path(word).expanduser()
    return path.resolve().name or word, path


def _check_directory(word: str, path: Path) -> None:
    if (path / "config.json").is_file():
        return
    if not path.exists():
        hint = f"`{word}` is no directory here; download the model first, then give its directory"
    else:
        hint = "a Hugging Face model directory holds config.json, a tokenizer and *.safetensors"
    raise ConfigurationError(f"there is no model in {path}", hint)


def _task_of(path: Path) -> Task | None:
    """By sentence-transformers' own files or the architecture; None leaves it to the model's covey.json."""
    if (path / "modules.json").is_file():
        return Task.EMBED
    try:
        architectures = json.loads((path / "config.json").read_bytes()).get("architectures") or []
    except (OSError, ValueError, AttributeError):
        return None
    return Task.EMBED if any(a in _EMBEDDING_ARCHITECTURES for a in architectures) else None
