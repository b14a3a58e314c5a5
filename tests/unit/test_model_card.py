from pathlib import Path

import pytest

from covey_mesh.core.facts import Task
from covey_node.io.machine import machine, memory
from covey_node.io.model_card import ModelCard, ModelCardError, read_card


def directory(path: Path, card: str | None = None, *extra: str) -> str:
    for name in ("config.json", *extra):
        (path / name).write_text("{}")
    if card is not None:
        (path / "covey.json").write_text(card)
    return str(path)


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (None, ModelCard()),
        ("{}", ModelCard()),
        ('{"task": "embed"}', ModelCard(Task.EMBED)),
        ('{"extra_args": ["--a", "b"], "later": 1}', ModelCard(None, ("--a", "b"))),
    ],
)
def test_what_the_card_says(tmp_path: Path, card: str | None, expected: ModelCard) -> None:
    assert read_card(directory(tmp_path, card)) == expected


def test_sentence_transformers_embed_unless_the_card_says_otherwise(tmp_path: Path) -> None:
    assert read_card(directory(tmp_path, None, "modules.json")).task is Task.EMBED
    assert read_card(directory(tmp_path, '{"task": "generate"}')).task is Task.GENERATE


@pytest.mark.parametrize(
    "card", ["{", "[]", '{"task": "sing"}', '{"extra_args": "--a"}', '{"extra_args": %s}' % (["x"] * 65)]
)
def test_a_malformed_card(tmp_path: Path, card: str) -> None:
    with pytest.raises(ModelCardError, match=r"covey\.json"):
        read_card(directory(tmp_path, card.replace("'", '"')))


def test_no_model_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelCardError, match=r"no config\.json"):
        read_card(str(tmp_path))


def test_this_machine() -> None:
    found = machine()
    assert found.cpu_name
    assert found.cpu_count >= 1
    total, available = memory()
    assert 0 < available <= total == found.memory_total_bytes


def test_a_system_that_does_not_say(tmp_path: Path) -> None:
    assert memory(tmp_path / "absent") == (0, 0)
