"""covey's own policy: seconds until the answer, predicted for every machine from what was measured on it."""

from __future__ import annotations

from collections.abc import Sequence

from covey_scheduler.core.prediction import Question
from covey_scheduler.core.settings import SchedulerSettings
from covey_scheduler.core.standing import Standing


def predicted(
    question: Question, machines: Sequence[Standing], cached: Sequence[int], settings: SchedulerSettings
) -> list[float]:
    """Seconds before this prompt (network, place in the batch, failures, prompts given to the machine before) + seconds
    of its own uncached tokens + `answer_weight` x (seconds of its answer + the delay of every stream that the machine
    runs, each of which waits while this prompt is computed: `crowding` is 1 + answer_weight x streams).

    The first two are prediction.py's terms, added up for all machines at once; the delay of others is what makes a
    product such as LMetric's work, in seconds instead of tokens.
    """
    now_s, prompt = question.now_s, max(1, question.ask.prompt_tokens)
    answer = settings.answer_weight * question.output_tokens
    costs: list[float] = []
    # A loop, since this is most of a decision in a large pool: a comprehension would look its outer names up in cells.
    for machine, hit in zip(machines, cached, strict=True):
        wait_s = machine.prompts_done_at_s - now_s
        longer = 1.0 + 0.5 * (prompt + hit) * machine.attention_per_token
        prompt_s = (prompt - hit) * machine.prefill_s_per_token * longer
        costs.append(
            (wait_s if wait_s > 0.0 else 0.0)
            + machine.before_s
            + prompt_s * machine.crowding
            + answer * machine.decode_s_per_token
        )
    return costs
