"""Plots of the benches: well-formed, every line there, nothing outside the picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from bench.support.svg import HEIGHT, WIDTH, line_chart

SERIES = {"ours & theirs": [(1.0, 2.0), (10.0, 30.0), (1000.0, 7.5)], "other": [(1.0, 0.4), (1000.0, 900.0)]}


@pytest.mark.parametrize("log", [False, True])
def test_every_line_is_drawn_within_the_picture(log: bool) -> None:
    chart = ElementTree.fromstring(line_chart("Title <1>", "x", "y", SERIES, log_x=log, log_y=log))
    lines = [each for each in chart.iter() if each.tag.endswith("polyline")]
    assert len(lines) == 2
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
    texts = {each.text for each in chart.iter() if each.tag.endswith("text")}
    assert {"Title <1>", "x", "y", "ours & theirs", "other"} <= texts


def test_one_point_is_a_chart_too() -> None:
    chart = ElementTree.fromstring(line_chart("t", "x", "y", {"a": [(5.0, 0.0)]}))
    assert "nan" not in ElementTree.tostring(chart, encoding="unicode").lower()
