"""What the doctor shows while it looks: findings as they come, problems of a step first, no text that acts."""

from __future__ import annotations

import io

from rich.console import Console

from covey.doctor.finding import Finding, fail, ok, warn
from covey.doctor.screen import Screen


def shown(*steps: tuple[str, list[Finding]]) -> list[str]:
    written = io.StringIO()
    screen = Screen(Console(file=written, width=100), [name for name, _ in steps])
    with screen.watching():
        for name, findings in steps:
            screen.tell(name, findings)
    screen.conclude()
    return written.getvalue().splitlines()


def test_findings_come_with_their_fix_and_a_summary() -> None:
    lines = shown(
        ("machine", [ok("disk", "fine"), fail("vLLM", "[missing]", "pip install 'covey[cpu]'")]),
        ("clock", [warn("clock", "off", "set it")]),
    )
    assert [line.split()[0] for line in lines] == ["problem", "->", "ok", "warning", "->", "1"]
    assert "[missing]" in lines[0]
    assert "covey[cpu]" in lines[1]
    assert lines[-1] == "1 problem (vLLM); 1 warning (clock)"


def test_nothing_is_wrong() -> None:
    assert shown(("machine", [ok("disk", "fine")]), ("etcd", []))[-1] == "nothing is wrong"


def test_names_of_other_machines_do_not_steer_the_terminal() -> None:
    lines = shown(("names", [warn("machine \x1b[2J", "\x1b]0;mine\x07 [bold]x[/bold]", "do \x9b1m")]))
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "[bold]x[/bold]" in text
