"""The instruments of `make bench-datapath`: what they count is what was asked for, and what fails is said."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.datapath import instruments, measuring, processes, report
from bench.datapath.instruments import Load
from bench.datapath.measuring import Results
from bench.datapath.processes import Server

SECONDS, WARM_UP_S = 0.1, 0.05

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="the instruments need a C compiler")


@pytest.fixture(scope="module")
def engine() -> Iterator[Server]:
    instruments.build()
    server = instruments.stand_in()
    yield server
    server.stop()


def test_whole_answers(engine: Server) -> None:
    measured = instruments.run_load(engine.port, Load(2, False, 3, 0), SECONDS, WARM_UP_S, 1, lambda: 0.0)
    assert measured.completed > 0
    assert (measured.failed, measured.tokens) == (0, 0)


def test_streams_bring_every_token(engine: Server) -> None:
    measured = instruments.run_load(engine.port, Load(1, True, 5, 0), SECONDS, WARM_UP_S, 1, lambda: 0.0)
    assert measured.failed == 0
    assert abs(measured.tokens - 5 * measured.completed) <= 10, "at most an answer cut by each end of the measured time"


def test_a_target_whose_answers_fail_is_not_measured(engine: Server) -> None:
    result = Results(engine.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instruments, "CHAT", "/nowhere")
        patch.setattr(measuring, "WARM_UP_S", WARM_UP_S)
        measuring.measure_one(engine, result, "requests", Load(1, False, 1, 0), SECONDS, 1)
    assert "404" in result.why_not
    assert "not measured" in report.table([result])[-1]


def test_a_figure_without_its_target_is_missed_aloud() -> None:
    lines = report.ratios([])
    assert len(lines) == 19
    assert all(line.endswith("not measured") for line in lines)


def test_cpu_is_that_of_the_whole_tree_without_the_engine(engine: Server) -> None:
    assert processes.trees(engine.pids, without=instruments.STAND_IN) == []
    assert processes.trees(engine.pids, without=Path("/nowhere")) == engine.pids
    assert processes.cpu_s(engine.pids) >= 0
