"""Text of other machines and of models on a person's terminal."""

from __future__ import annotations

import pytest

from covey.cli.invocation import Invocation
from covey.terminal import harmless, harmless_all


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("zwei Zeilen\n\tund ein Tab, ß 日本 🐦", "zwei Zeilen\n\tund ein Tab, ß 日本 🐦"),
        ("\x1b[2Jgone", "�[2Jgone"),
        ("\x9b2J", "�2J"),
        ("a\rb\x08c\x00\x7f", "a�b�c��"),
        ("\u202egnp.exe", "�gnp.exe"),
    ],
)
def test_control_characters_are_replaced(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_all_texts_of_an_answer() -> None:
    content = {"a\x1b": ["x\x1b", 1, None, {"b": "\x1b"}], "c": True}
    assert harmless_all(content) == {"a�": ["x�", 1, None, {"b": "�"}], "c": True}


def test_what_a_command_shows_to_people_is_harmless_and_json_is_as_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"name": "\x1b]0;owned\x07"}
    Invocation().show(content, lambda shown: shown["name"])
    assert "\x1b" not in capsys.readouterr().out
    Invocation(as_json=True).show(content, lambda shown: None)
    assert capsys.readouterr().out == '{"name": "\\u001b]0;owned\\u0007"}\n'
