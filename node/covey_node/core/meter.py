"""How fast one model runs on this machine, learned from the answers themselves.

Marks of attempts come in (when a prompt was given, when tokens came), speeds go out. Three things are told apart:

- what is known: robust estimates over the last observations (observations.py), by length of prompt (prefill_speed.py)
  and by batch and context (decode_speed.py); no single value moves them.
- what has changed a moment ago (change.py): a few observations in a row that are all slower, or all faster, count at
  once, so that a machine on which a game was started is left alone within seconds, and used again as soon.
- what an earlier life of the agent knew (speed_record.py).

A prompt's time is that in which at least one prompt was waiting for its first token: prompts that the engine computes
side by side count as the throughput they are, not as that many slow prompts. What the engine had cached of a prompt is
no work; where that is told at the answer's end, the observation is corrected.

Not here: clocks (callers pass `now_s`), nor the prior for a machine that measured nothing yet (covey_scheduler).
"""

from __future__ import annotations

import statistics
from collections import deque

from covey_mesh.core.speeds import CALIBRATED, LEARNED, STORED, ModelSpeeds
from covey_node.core.decode_speed import DecodeSpeed
from covey_node.core.embeddings import Embeddings, Observed
from covey_node.core.observations import Observation, confidence
from covey_node.core.occupancy import Occupancy, Presence
from covey_node.core.prefill_speed import PrefillSpeed
from covey_node.core.prompt_line import PromptLine
from covey_node.core.speed_record import LOADS_MAX, SpeedRecord

DECODE_SAMPLE_TOKENS = 16
"""Output tokens of one stream between two samples: fewer would measure the batching of reads."""

DECODE_SAMPLE_S = 0.5
"""... but a slow stream is not waited for longer than this."""

PREFILL_BATCH_S = 0.005
"""First tokens closer together than this came out of one engine step."""

GUESSES_MAX = 256
"""Prompts whose cached part may still be told by what the engine has stored."""

LEARNED_AFTER = 8
"""Observations from traffic after which a speed is called learned, whatever it began with."""

BESIDE_SHARE_MAX = 0.1
"""A prompt's time tells nothing where for more than this part of it others were computed of which nobody is told."""

WHOLE_PROMPT_TOKENS_MIN = 256
"""Shorter ones, of answers in one piece, are not looked for beside other samples."""


class Metered:
    """One attempt's marks between samples; made by Meter.started. `prompt_work`: in tokens of a short prompt, of a
    stream; `told`: that is no guess; `area`, `prompts_s`: seconds of all streams, and with a long prompt, at the last
    mark."""

    answering: bool = False
    output_tokens: int = 0
    tokens_since_mark: int = 0
    area: float = 0.0
    prompts_s: float = 0.0
    long: bool = False
    observation: Observation | None = None

    def __init__(self, prompt_work: int, prompt_tokens: int, streamed: bool, mark_s: float, told: bool) -> None:
        self.prompt_work = prompt_work
        self.prompt_tokens = prompt_tokens
        self.streamed = streamed
        self.mark_s = mark_s
        self.told = told


class Meter:
    """All speeds of one model. Calls come in order of time; each `started` is followed by one `ended`.

    `attention`: covey_mesh.core.model_size.attention_per_token. `calibrating` is True while the attempts are our own.
    """

    def __init__(self, attention: float = 0.0) -> None:
        self._attention = attention
        self._prefill = PrefillSpeed()
        self._decode = DecodeSpeed()
        self._loads_s: deque[float] = deque(maxlen=LOADS_MAX)
        self._now_s = 0.0
        self._prefilling = 0
        self._prefill_from_s = 0.0
        self._prefill_whole_s = 0.0
        self._batch: list[Metered] = []
        self._batch_end_s = 0.0
        self._newest = (float("nan"), 0.0)
        self._guesses: deque[Metered] = deque(maxlen=GUESSES_MAX)
        self._computed_tokens = 0
        self._wholes = 0
        self._embeddings = Embeddings()
        self._streams = Occupancy()
        self._long_prompts = Presence()
        self._line = PromptLine()
        self._counts = {CALIBRATED: 0, LEARNED: 0, STORED: 0}
        self.calibrating = False

    # --- what is known ------------------------------------------------------------------------------------------------

    @property
    def prefill_tokens_per_s(self) -> float:
        """Of the engine as a whole, now; 0 before the first observation."""
        tokens_per_s = self._prefill.tokens_per_s
        return tokens_per_s / self.factors[0] if tokens_per_s else 0.0

    @property
    def decode_tokens_per_s(self) -> float:
        """Of one stream, in the batch of this moment; 0 before the first sample."""
        return self.stream_tokens_per_s(self._streams.count)

    def stream_tokens_per_s(self, batch: int) -> float:
        """Of one of so many streams, now; 0 before the first sample."""
        step_s = self._decode.step_s(max(1, batch)) * self.factors[1]
        return 1.0 / step_s if step_s > 0 else 0.0

    @property
    def factors(self) -> tuple[float, float]:
        """Present pace over known pace, of prefill and decode; 1 where nothing has changed a moment ago. What slows
        one most likely slows the other: until that has been seen itself, it is expected to."""
        now_s, prefill, decode = self._now_s, self._prefill.change, self._decode.change
        if prefill.usual and decode.usual:
            return 1.0, 1.0
        p, d = prefill.factor(now_s), decode.factor(now_s)
        if p == 1.0 and d > 1.0 and prefill.newest_s <= decode.since_s:
            p = d
        elif d == 1.0 and p > 1.0 and decode.newest_s <= prefill.since_s:
            d = p
        return p, d

    def known_kinds(self, now_s: float, age_s_max: float) -> int:
        """How many of prefill and decode were measured within this time."""
        known = (self._prefill.estimate, self._decode.estimate)
        return sum(1 for e in known if e is not None and now_s - e.newest_s <= age_s_max)

    @property
    def load_s(self) -> float:
        """Median of the last starts of the engine; 0: none was seen."""
        return statistics.median(self._loads_s) if self._loads_s else 0.0

    def confidence(self, now_s: float) -> float:
        """0 to 1: of the kind of speed that is known worst, of those known at all."""
        known = [e for e in (self._prefill.estimate, self._decode.estimate) if e is not None]
        return min((confidence(e.observations, e.spread, now_s - e.newest_s) for e in known), default=0.0)

    def speeds(self, now_s: float, unix_s: float) -> ModelSpeeds:
        """For the report. `unix_s`: the same moment, by the clock for people."""
        known = [e for e in (self._prefill.estimate, self._decode.estimate) if e is not None]
        newest_s = max((e.newest_s for e in known), default=now_s)
        prefill_factor, decode_factor = self.factors
        return ModelSpeeds(
            prefill=self._prefill.points(),
            decode=self._decode.points(),
            batch_slowdown=self._decode.slowdown or 0.0,
            load_s=self.load_s,
            source=self._source() if known else "",
            confidence=round(self.confidence(now_s), 2),
            observations=sum(e.observations for e in known),
            spread=round(max((e.spread for e in known), default=0.0), 4),
            measured_unix_s=self._measured_unix_s(newest_s, now_s, unix_s) if known else 0.0,
            prefill_factor=prefill_factor,
            decode_factor=decode_factor,
        )

    def _measured_unix_s(self, newest_s: float, now_s: float, unix_s: float) -> float:
        """Worked out once for each moment: two clocks never agree, and a report that changes for nothing costs all."""
        if self._newest[0] != newest_s:
            self._newest = (newest_s, float(round(unix_s - (now_s - newest_s))))
        return self._newest[1]

    # --- what is seen -------------------------------------------------------------------------------------------------

    def loaded(self, seconds: float) -> None:
        """The engine took so long from its start to its first answer."""
        if seconds > 0:
            self._loads_s.append(seconds)

    def settle(self, now_s: float) -> None:
        """Time has passed: call it before reading, at least every second while anything runs."""
        self._now_s = now_s
        self._prefill.refresh()
        self._decode.settle(now_s)

    def started(
        self, prompt_tokens: int, streamed: bool, now_s: float, cached_tokens: int = 0, told: bool = True
    ) -> Metered:
        """The engine was given a prompt, of which it had `cached_tokens` already; `told`: that is no guess."""
        self._now_s = now_s
        if not streamed:
            metered = Metered(0, prompt_tokens, False, now_s, told)
            self._wholes += 1
            metered.area, metered.prompts_s = self._streams.change(1, now_s), self._prompts_s(now_s)
            if prompt_tokens - cached_tokens >= WHOLE_PROMPT_TOKENS_MIN:
                self._add_whole(metered, cached_tokens, now_s)
            return metered
        metered = Metered(self._work(prompt_tokens, cached_tokens), prompt_tokens, True, now_s, told)
        if self._prefilling == 0:
            self._close_batch()
            self._prefill_from_s, self._prefill_whole_s = now_s, self._line.whole_s(now_s)
        self._prefilling += 1
        # A prompt that takes no longer than a step, as far as is known, does not slow the others' steps much.
        expected_s = self._prefill.expected_s(max(1, metered.prompt_work))
        metered.long = expected_s >= self._decode.step_s(1)
        if metered.long:
            self._line.add_streamed(expected_s, now_s)
        self._long_prompts.change(metered.long, now_s)
        return metered

    def tokens(self, metered: Metered, count: int, now_s: float) -> None:
        """`count` output tokens arrived in a stream; the first call marks the end of its prefill."""
        if count <= 0:
            return
        metered.output_tokens += count
        if not metered.answering:
            metered.answering = True
            metered.mark_s = now_s
            metered.area = self._streams.change(1, now_s)
            self._prefilled(metered, now_s)
            metered.prompts_s = self._prompts_s(now_s)
            return
        metered.tokens_since_mark += count
        if metered.tokens_since_mark >= DECODE_SAMPLE_TOKENS or now_s - metered.mark_s >= DECODE_SAMPLE_S:
            self._sample_decode(metered, now_s)

    def told(self, metered: Metered, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine's own counts of a prompt: its observation, made or still to come, is corrected."""
        work = self._work(prompt_tokens, min(cached_tokens, prompt_tokens))
        observation, before = metered.observation, metered.prompt_work
        metered.prompt_work, metered.prompt_tokens, metered.told = work, prompt_tokens, True
        if observation is not None:
            self._prefill.correct(observation, observation.work + work - before)

    def engine_computed(self, prompt_tokens: int) -> None:
        """All prompt tokens that the engine has computed and stored since it started, where it tells: of the prompts
        begun to be answered since the last call, the rest was cached. A better guess, each has the same share."""
        new = prompt_tokens - self._computed_tokens
        guesses = [each for each in self._guesses if not each.told]
        if not guesses and self._prefilling:
            return  # what was stored is of prompts that are not complete
        self._computed_tokens = prompt_tokens
        self._guesses.clear()
        asked = sum(each.prompt_tokens for each in guesses)
        share = min(1.0, max(0, new) / asked) if asked else 0.0
        for each in guesses:
            work, before = self._work(each.prompt_tokens, round(each.prompt_tokens * (1.0 - share))), each.prompt_work
            each.prompt_work = work
            if each.observation is not None:
                self._prefill.correct(each.observation, each.observation.work + work - before, told=False)

    def answered_whole(
        self, metered: Metered, prompt_tokens: int, output_tokens: int, now_s: float, cached_tokens: int = 0
    ) -> None:
        """An answer in one piece, with its true token counts. Without output (embeddings) its time was prefill."""
        self._now_s = now_s
        metered.output_tokens = output_tokens
        if output_tokens == 0:
            work, known = self._work(prompt_tokens, cached_tokens), self._prefill.tokens_per_s
            self._embeddings_seen(self._embeddings.answered(work, metered.mark_s, now_s, known))
        else:
            area = self._streams.seconds(now_s) - metered.area
            self._sample_whole(metered, prompt_tokens, output_tokens, now_s, cached_tokens, area)

    def whole_over(
        self, metered: Metered, prompt_tokens: int, output_tokens: int, now_s: float, cached_tokens: int
    ) -> None:
        """`answered_whole`, and then `ended`."""
        if output_tokens == 0 or self._embeddings.work:
            self.answered_whole(metered, prompt_tokens, output_tokens, now_s, cached_tokens)
            self.ended(metered, now_s)
            return
        self._now_s = now_s
        self._wholes -= 1
        area = self._streams.change(-1, now_s) - metered.area
        self._sample_whole(metered, prompt_tokens, output_tokens, now_s, cached_tokens, area)

    def _sample_whole(
        self,
        metered: Metered,
        prompt_tokens: int,
        output_tokens: int,
        now_s: float,
        cached_tokens: int,
        area: float,
    ) -> None:
        """What prefill is known to take is taken off, and the rest was decode. `area`: seconds of all streams since it
        began."""
        elapsed_s = decode_s = now_s - metered.mark_s
        prefill = self.prefill_tokens_per_s
        if prefill:
            decode_s -= self._work(prompt_tokens, cached_tokens) / prefill
        batch = area / elapsed_s if elapsed_s > 0 else 1.0
        prompts_s = self._prompts_s(now_s) - metered.prompts_s
        self._sample(output_tokens, decode_s, batch, prompt_tokens + output_tokens / 2, now_s, prompts_s)

    def _embeddings_seen(self, seen: Observed | None) -> None:
        if seen is not None:
            self._observe_prefill(*seen, told=True)

    def ended(self, metered: Metered, now_s: float, complete: bool = True) -> None:
        """The attempt is over. Where its answer is not complete, the time since its last token measures whoever ended
        it, not the engine."""
        self._now_s = now_s
        if metered.streamed and not metered.answering:
            self._prefilling -= 1
            self._long_prompts.change(-metered.long, now_s)
            return
        if not metered.streamed:
            self._wholes -= 1
        if not self._wholes and self._embeddings.work:
            self._embeddings_seen(self._embeddings.over())
        if complete and metered.tokens_since_mark > 0:
            self._sample_decode(metered, now_s)
        self._streams.change(-1, now_s)

    def next_batch(self, now_s: float) -> None:
        """A calibration goes on with another number of streams."""
        self._decode.close(now_s)

    # --- memory -------------------------------------------------------------------------------------------------------

    def record(self, now_s: float, unix_s: float) -> SpeedRecord:
        """What another life of the agent should know."""
        booted_unix_s = unix_s - now_s
        return SpeedRecord(
            tuple(each._replace(at_unix_s=each.at_unix_s + booted_unix_s) for each in self._prefill.memory()),
            tuple(each._replace(at_unix_s=each.at_unix_s + booted_unix_s) for each in self._decode.memory()),
            tuple(self._loads_s),
        )

    def restore(self, record: SpeedRecord, now_s: float, unix_s: float) -> None:
        """Into a meter that has seen nothing yet. A time in the future counts as now."""
        self._now_s = now_s
        for work, pace_s, observations, at_unix_s in sorted(record.prefill, key=lambda each: each.at_unix_s):
            self._prefill.restore(work, pace_s, observations, now_s - max(0.0, unix_s - at_unix_s))
            self._counts[STORED] += observations
        for batch, context, step_s, seen, at_unix_s in sorted(record.decode, key=lambda each: each.at_unix_s):
            self._decode.restore(batch, context, step_s, seen, now_s - max(0.0, unix_s - at_unix_s))
            self._counts[STORED] += seen
        self._loads_s.extend(record.loads_s)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _source(self) -> str:
        if self._counts[LEARNED] >= LEARNED_AFTER:
            return LEARNED
        return max(self._counts, key=lambda source: self._counts[source])

    def _work(self, prompt_tokens: int, cached_tokens: int = 0) -> int:
        """In tokens of a short prompt (covey_mesh.core.model_size.length_factor, written out)."""
        new = prompt_tokens - cached_tokens
        return round(new * (1.0 + 0.5 * (prompt_tokens + cached_tokens) * self._attention)) if new > 0 else 0

    def _add_whole(self, metered: Metered, cached_tokens: int, now_s: float) -> None:
        """A prompt whose answer comes in one piece. Where it is long, others' samples must know of it; its own does."""
        prefill = self._prefill.tokens_per_s
        expected_s = self._work(metered.prompt_tokens, cached_tokens) / prefill if prefill else 0.0
        if expected_s >= self._decode.step_s(1):
            self._line.add_whole(expected_s, now_s)
            metered.prompts_s += expected_s

    def _prompts_s(self, now_s: float) -> float:
        """Seconds so far in which long prompts were computed."""
        return self._long_prompts.seconds(now_s) + self._line.whole_s(now_s)

    def _prefilled(self, metered: Metered, now_s: float) -> None:
        if now_s - self._batch_end_s >= PREFILL_BATCH_S:
            self._close_batch()
        self._prefilling -= 1
        self._long_prompts.change(-metered.long, now_s)
        self._batch.append(metered)
        self._batch_end_s = now_s
        if self._prefilling == 0:
            self._close_batch()

    def _close_batch(self) -> None:
        if not self._batch:
            return
        batch, self._batch = self._batch, []
        work, told = sum(each.prompt_work for each in batch), all(each.told for each in batch)
        seconds = self._batch_end_s - self._prefill_from_s
        whole_s = self._line.whole_s(self._batch_end_s)
        beside_s, self._prefill_whole_s = whole_s - self._prefill_whole_s, whole_s
        self._prefill_from_s = self._batch_end_s
        if beside_s > BESIDE_SHARE_MAX * seconds:
            return
        observation = self._observe_prefill(work, seconds, self._batch_end_s, told)
        for each in batch:
            each.observation = observation
            if observation is not None and not each.told:
                self._guesses.append(each)

    def _observe_prefill(self, work: int, seconds: float, now_s: float, told: bool) -> Observation | None:
        self._counts[CALIBRATED if self.calibrating else LEARNED] += 1
        step_s = self._decode.step_s(self._streams.count) if self._streams.count else 0.0
        return self._prefill.observe(work, seconds, now_s, step_s=step_s, told=told)

    def _sample_decode(self, metered: Metered, now_s: float) -> None:
        self._now_s = now_s
        context = metered.prompt_tokens + metered.output_tokens - metered.tokens_since_mark / 2
        seconds = now_s - metered.mark_s
        batch = (self._streams.seconds(now_s) - metered.area) / seconds if seconds > 0 else 1.0
        prompts_s = self._prompts_s(now_s)
        self._sample(metered.tokens_since_mark, seconds, batch, context, now_s, prompts_s - metered.prompts_s)
        metered.tokens_since_mark = 0
        metered.mark_s, metered.area, metered.prompts_s = now_s, self._streams.seconds(now_s), prompts_s

    def _sample(
        self, tokens: int, seconds: float, batch: float, context: float, now_s: float, prompts_s: float
    ) -> None:
        self._counts[CALIBRATED if self.calibrating else LEARNED] += 1
        self._decode.sample(tokens, seconds, batch, context, now_s, prompts_s)
