"""Fixtures of the LAN tests. Without root or network namespaces every one of them is skipped, with the reason."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from tests.lan import avahi, lab

MakeLab = Callable[..., lab.Lab]
_MEASURED: list[str] = []


@functools.cache
def _missing() -> str | None:
    return lab.missing_requirement()


@pytest.fixture
def make_lab() -> Iterator[MakeLab]:
    """Makes labs that live until the test ends: `make_lab(3)`."""
    reason = _missing()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda hosts, **options: stack.enter_context(lab.Lab(hosts, **options))


@pytest.fixture
def needs_avahi() -> None:
    """Skips where avahi is not installed."""
    reason = avahi.missing_requirement()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def make_module_lab() -> Iterator[MakeLab]:
    """Makes labs that live until the module's tests have ended."""
    reason = _missing()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield lambda hosts, **options: stack.enter_context(lab.Lab(hosts, **options))


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Notes a time in seconds, to be printed when all tests have run. Tests do not fail for them: machines differ."""
    return lambda what, seconds: _MEASURED.append(f"{seconds:7.2f} s  {what} ({request.node.name})")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MEASURED:
        terminalreporter.section("measured on the lab's LAN")
        for line in _MEASURED:
            terminalreporter.line(line)
