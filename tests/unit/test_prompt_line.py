"""When prompts whose first token nobody hears of were computed, by what they should take."""

from __future__ import annotations

import pytest

from covey_node.core.prompt_line import PromptLine


def test_one_after_the_other() -> None:
    line = PromptLine()
    line.add_whole(1.0, 10.0)
    line.add_whole(2.0, 10.5)
    assert [line.whole_s(at_s) for at_s in (10.5, 11.0, 12.0, 13.0, 99.0)] == pytest.approx([0.5, 1.0, 2.0, 3.0, 3.0])
    line.add_whole(1.0, 100.0)
    assert [line.whole_s(at_s) for at_s in (100.0, 100.5)] == pytest.approx([3.0, 3.5])


def test_a_prompt_that_is_heard_of_delays_the_others_only() -> None:
    line = PromptLine()
    line.add_streamed(1.0, 0.0)
    assert line.whole_s(1.0) == 0.0
    line.add_whole(1.0, 0.5)
    assert [line.whole_s(at_s) for at_s in (1.5, 2.0)] == pytest.approx([0.5, 1.0])
    line.add_whole(1.0, 5.0)
    line.add_streamed(1.0, 5.0)
    assert line.whole_s(7.0) == pytest.approx(2.0)
