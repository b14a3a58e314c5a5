"""`covey doctor`: runs the examination and prints it, for a person as it goes or as JSON at its end."""

from __future__ import annotations

import asyncio
import json

import click

from covey.config import Configuration
from covey.doctor.examination import Examination
from covey.doctor.finding import Finding
from covey.doctor.pair import survey_to_json


def examine(configuration: Configuration, thorough: bool, as_json: bool) -> list[Finding]:
    """All findings, printed. JSON: `findings` (each `level`, `title`, `detail`, `fix`) and the `survey` of links."""
    examination = Examination(configuration, thorough)
    if as_json:
        findings = asyncio.run(examination.run(lambda step, found: None))
        content = {
            "findings": [finding.as_json() for finding in findings],
            "survey": survey_to_json(examination.survey),
        }
        click.echo(json.dumps(content, ensure_ascii=False))
        return findings
    return _show(examination)


def _show(examination: Examination) -> list[Finding]:
    from rich.console import Console

    from covey.doctor.screen import Screen

    screen = Screen(Console(), examination.steps)
    with screen.watching():
        findings = asyncio.run(examination.run(screen.tell))
    screen.conclude()
    return findings
