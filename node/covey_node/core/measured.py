"""One model's meter together with what is reported of it. Not here: disk (covey_node.io.speed_book) and clocks."""

from __future__ import annotations

from covey_mesh.core.facts import EngineState, Task
from covey_mesh.core.speeds import UNMEASURED, ModelSpeeds
from covey_node.core.meter import Meter
from covey_node.core.speed_record import SpeedRecord

REPORT_EVERY_S = 1.0
"""The tables are worked out at most so often; what has changed a moment ago is told at once."""

FRESH_S = 7 * 24 * 3600.0
FRESH_CONFIDENCE = 0.25
"""With at least this, measured before within FRESH_S, a model is not measured again when it loads."""


class Measured:
    """`meter` is fed by who serves; this says what to tell of it."""

    def __init__(self, meter: Meter, task: Task) -> None:
        self.meter = meter
        self._task = task
        self._report: ModelSpeeds = UNMEASURED
        self._reported_s = float("-inf")
        self._starting_s: float | None = None
        self._remembered = SpeedRecord()

    def engine_is(self, state: EngineState, since_s: float, now_s: float) -> None:
        """Every change of the engine's state; the time from STARTING to READY is its load time."""
        if state is EngineState.STARTING:
            self._starting_s = since_s
        elif state is EngineState.READY and self._starting_s is not None:
            self.meter.loaded(now_s - self._starting_s)
            self._starting_s = None
        else:
            self._starting_s = None

    def report(self, now_s: float, unix_s: float) -> ModelSpeeds:
        """As of now, or of a moment ago."""
        self.meter.settle(now_s)
        factors = self.meter.factors
        old = (self._report.prefill_factor, self._report.decode_factor)
        if now_s - self._reported_s >= REPORT_EVERY_S or factors != old:
            self._reported_s = now_s
            fresh = self.meter.speeds(now_s, unix_s)
            if fresh != self._report:
                self._report = fresh
        return self._report

    def restore(self, record: SpeedRecord, now_s: float, unix_s: float) -> None:
        """What an earlier life of the agent measured of the same configuration."""
        self._remembered = record
        self.meter.restore(record, now_s, unix_s)

    def to_remember(self, now_s: float, unix_s: float) -> SpeedRecord | None:
        """None while nothing has been learned since the last time."""
        record = self.meter.record(now_s, unix_s)
        newest, before = record.newest_unix_s, self._remembered.newest_unix_s
        if newest <= before + 1.0 and record.loads_s == self._remembered.loads_s:
            return None
        self._remembered = record
        return record

    def wants_calibration(self, now_s: float) -> bool:
        """Nothing fresh is known of both speeds (of the one there is, for embeddings)."""
        known = self.meter.known_kinds(now_s, FRESH_S)
        needed = 1 if self._task is Task.EMBED else 2
        return known < needed or self.meter.confidence(now_s) < FRESH_CONFIDENCE
