"""How fast one model runs on this machine, learned from the answers themselves.

Two speeds, both as a ratio of decayed sums (tokens over seconds): large samples weigh more than small ones, and old
ones fade. A sample further than OUTLIER_FACTOR from the present estimate is pulled in to that distance, so one
hiccup (a page fault storm, a suspended laptop) moves the estimate by one bounded step.

- prefill: prompt tokens over the time in which at least one prompt was waiting for its first token. Prompts that the
  engine computes side by side thereby count as the throughput they are, not as that many slow prompts. Tokens of long
  prompts take longer (attention) and count for more, so that the speed is that of a short prompt.
- decode: output tokens over the time they took, per stream: what one client sees, at the load of the moment.

Not here: clocks (callers pass `now_s`), nor the prior for a machine that measured nothing yet (covey_scheduler).
"""

from __future__ import annotations

from dataclasses import dataclass

from covey_mesh.core.model_size import length_factor

DECAY = 0.9
"""Share of the old sums kept at each sample: a memory of about ten samples."""

OUTLIER_FACTOR = 4.0
OUTLIER_AFTER_SAMPLES = 3

DECODE_SAMPLE_TOKENS = 16
"""Output tokens of one stream between two decode samples: fewer would measure the batching of reads."""

PREFILL_BATCH_S = 0.005
"""First tokens closer together than this came out of one engine step."""

SECONDS_MIN = 1e-6


class Speed:
    """Tokens per second: decayed tokens over decayed seconds, outliers pulled in."""

    __slots__ = ("_samples", "_seconds", "_tokens")

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._samples = 0

    @property
    def tokens_per_s(self) -> float:
        """0 before the first sample."""
        return self._tokens / self._seconds if self._seconds > 0 else 0.0

    def sample(self, tokens: int, seconds: float) -> None:
        """Learn from `tokens` computed in `seconds`. Samples without tokens or time say nothing and are ignored."""
        if tokens <= 0 or seconds < SECONDS_MIN:
            return
        if self._samples >= OUTLIER_AFTER_SAMPLES:
            expected_s = tokens / self.tokens_per_s
            seconds = min(max(seconds, expected_s / OUTLIER_FACTOR), expected_s * OUTLIER_FACTOR)
        self._tokens = self._tokens * DECAY + tokens
        self._seconds = self._seconds * DECAY + seconds
        self._samples += 1


@dataclass(slots=True)
class Metered:
    """One attempt's marks between samples; made by Meter.started. `prompt_work`: in tokens of a short prompt."""

    prompt_work: int
    streamed: bool
    mark_s: float
    answering: bool = False
    output_tokens: int = 0
    tokens_since_mark: int = 0


class Meter:
    """Both speeds of one model. Calls come in order of time; each `started` is followed by one `ended`.

    `attention`: covey_mesh.core.model_size.attention_per_token.
    """

    def __init__(self, attention: float = 0.0) -> None:
        self._attention = attention
        self._prefill = Speed()
        self._decode = Speed()
        self._prefilling = 0
        self._prefill_from_s = 0.0
        self._batch_tokens = 0
        self._batch_end_s = 0.0

    @property
    def prefill_tokens_per_s(self) -> float:
        """Of the engine as a whole; 0 before the first sample."""
        return self._prefill.tokens_per_s

    @property
    def decode_tokens_per_s(self) -> float:
        """Of one stream; 0 before the first sample."""
        return self._decode.tokens_per_s

    def started(self, prompt_tokens: int, streamed: bool, now_s: float, cached_tokens: int = 0) -> Metered:
        """The engine was given a prompt, of which it had `cached_tokens` already."""
        if streamed:
            if self._prefilling == 0:
                self._close_batch()
                self._prefill_from_s = now_s
            self._prefilling += 1
        return Metered(self._work(prompt_tokens, cached_tokens), streamed, now_s)

    def tokens(self, metered: Metered, count: int, now_s: float) -> None:
        """`count` output tokens arrived in a stream; the first call marks the end of its prefill."""
        if count <= 0:
            return
        metered.output_tokens += count
        if not metered.answering:
            metered.answering = True
            metered.mark_s = now_s
            self._prefilled(metered.prompt_work, now_s)
            return
        metered.tokens_since_mark += count
        if metered.tokens_since_mark >= DECODE_SAMPLE_TOKENS:
            self._sample_decode(metered, now_s)

    def answered_whole(self, metered: Metered, prompt_tokens: int, output_tokens: int, now_s: float) -> None:
        """An answer in one piece, with its true token counts. Without output (embeddings) its time was prefill;
        else what prefill is known to take is taken off, and the rest was decode."""
        metered.output_tokens = output_tokens
        elapsed_s = now_s - metered.mark_s
        if output_tokens == 0:
            self._prefill.sample(self._work(prompt_tokens), elapsed_s)
            return
        prefill = self.prefill_tokens_per_s
        self._decode.sample(output_tokens, elapsed_s - (self._work(prompt_tokens) / prefill if prefill else 0.0))

    def ended(self, metered: Metered, now_s: float) -> None:
        """The attempt is over, however it ended."""
        if metered.streamed and not metered.answering:
            self._prefilling -= 1
        elif metered.tokens_since_mark > 0:
            self._sample_decode(metered, now_s)

    def _work(self, prompt_tokens: int, cached_tokens: int = 0) -> int:
        """In tokens of a short prompt."""
        new = max(0, prompt_tokens - cached_tokens)
        return round(new * length_factor(prompt_tokens, cached_tokens, self._attention))

    def _prefilled(self, prompt_work: int, now_s: float) -> None:
        if now_s - self._batch_end_s >= PREFILL_BATCH_S:
            self._close_batch()
        self._prefilling -= 1
        self._batch_tokens += prompt_work
        self._batch_end_s = now_s
        if self._prefilling == 0:
            self._close_batch()

    def _close_batch(self) -> None:
        if self._batch_tokens:
            self._prefill.sample(self._batch_tokens, self._batch_end_s - self._prefill_from_s)
            self._batch_tokens = 0
            self._prefill_from_s = self._batch_end_s

    def _sample_decode(self, metered: Metered, now_s: float) -> None:
        self._decode.sample(metered.tokens_since_mark, now_s - metered.mark_s)
        metered.tokens_since_mark = 0
        metered.mark_s = now_s
