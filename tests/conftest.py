"""Options of the whole suite."""

from __future__ import annotations

import pytest
from hypothesis import settings

# No test is timed: a busy machine must not fail one.
settings.register_profile("covey", deadline=None)
settings.load_profile("covey")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-scenarios",
        action="store_true",
        help="write what happened into tests/scenario/*.txt instead of comparing; review the difference",
    )
