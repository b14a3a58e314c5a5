"""Options of the whole suite."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# No test is timed: a busy machine must not fail one.
settings.register_profile("covey", deadline=None)
settings.load_profile("covey")


OUR_PACKAGES = ("covey", "covey_gateway", "covey_mesh", "covey_node", "covey_scheduler")


def pytest_configure() -> None:
    """A shell ignores Ctrl-C for what it starts in the background, and so would every process that a test starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-scenarios",
        action="store_true",
        help="write what happened into tests/scenario/*.txt instead of comparing; review the difference",
    )


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A test that leaves a logger silenced would make others fail, or pass, far away from itself."""

    def state() -> dict[str, tuple[int, bool, bool]]:
        named = {name: logging.getLogger(name) for name in OUR_PACKAGES}
        return {name: (logger.level, logger.propagate, logger.disabled) for name, logger in named.items()}

    before = state()
    yield
    assert state() == before, "this test changed logging and did not put it back"
