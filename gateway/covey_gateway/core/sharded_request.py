"""The life of a request that was cut into parts: which parts wait, run and are done, and what the client is sent.

Each part is a request like any other, run by whoever feeds this machine: placed, retried and continued on its own. Here
is only the book of them:

    WAITING -> RUNNING -> DONE          a part; each is DONE exactly once
       ^          |
       +----------+  its answer broke off, or no machine took it while others got on: again, PART_TRIES_MAX times

A whole answer is held back until every part is there, so that an error can still be told; beyond `held_bytes_max` it is
passed on in order as parts come, and no more parts are begun than the client reads. A stream is passed on at once. One
part's error ends the whole: one clean error that names the units it is about.

Not here: bodies and bytes (cutting.py, merging.py), flights, clocks.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from covey_gateway.core import merging
from covey_gateway.core.cutting import Units
from covey_gateway.core.errors import JSON
from covey_gateway.core.events import DONE_EVENT
from covey_gateway.core.front import AnswerHead
from covey_gateway.core.held_answer import EVENT_STREAM
from covey_gateway.core.merging import MalformedAnswerError, PartStream, StreamIdentity
from covey_gateway.core.retrying import BufferBudget
from covey_mesh.core.exchange import Failure, FailureCode
from covey_scheduler.core.sharding import Part

PART_TRIES_MAX = 3
"""Requests made for one part; each of them has its own retries, so this is for what those cannot mend."""

ERROR_BODY_BYTES_MAX = 64 * 1024
CLIENT_GONE_STATUS = 499
BROKEN_STATUS = 502


class PartPhase(enum.Enum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"


@dataclass(slots=True)
class PartState:
    """`attempt` counts the requests made for this part; `done_before`: parts done when the last one was made."""

    units: Part
    phase: PartPhase = PartPhase.WAITING
    attempt: int = 0
    broken: int = 0
    done_before: int = 0
    status: int = 0
    content_type: str = ""
    retry_after_s: int = 0
    received: list[bytes] = field(default_factory=list)
    stream: PartStream | None = None
    answer: merging.PartAnswer | None = None
    usage: merging.Json = field(default_factory=dict)


# --- effects --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenPart:
    """Begin a request for this part."""

    number: int
    attempt: int


@dataclass(frozen=True, slots=True)
class CancelPart:
    """Abort the request that runs for this part."""

    number: int


@dataclass(frozen=True, slots=True)
class DeliverHead:
    status: int
    content_type: str
    retry_after_s: int = 0


@dataclass(frozen=True, slots=True)
class DeliverData:
    chunk: bytes


@dataclass(frozen=True, slots=True)
class DeliverEnd:
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class HoldParts:
    """The client reads slowly: pause (or no longer) the answers of the parts that run."""

    paused: bool


Effect = OpenPart | CancelPart | DeliverHead | DeliverData | DeliverEnd | HoldParts


class ShardedRequest:
    """Methods are events; each returns effects to be run in order. Nothing follows once `over`."""

    def __init__(
        self, units: Units, parts: Sequence[Part], in_flight_max: int, held_bytes_max: int, budget: BufferBudget
    ) -> None:
        self.units = units
        self.parts = [PartState(part) for part in parts]
        self.over = False
        self.status = 0
        self.error = ""
        self.broken = False
        self.machines: list[str] = []
        self._in_flight_max = in_flight_max
        self._held_max = held_bytes_max
        self._budget = budget
        self._budgeted = 0
        self._unbudgeted = 0
        self._list_name = "data" if units.embeds else "choices"
        self._identity = StreamIdentity()
        self._head_sent = False
        self._flushing = False
        self._paused = False
        self._next = 0
        self._done = 0
        self._out: deque[bytes] = deque()

    @property
    def running(self) -> list[int]:
        """Numbers of the parts that run."""
        return [number for number, part in enumerate(self.parts) if part.phase is PartPhase.RUNNING]

    # --- events ------------------------------------------------------------------------------------------------------

    def started(self) -> list[Effect]:
        """Once, first."""
        return self._open_more()

    def part_head(self, number: int, attempt: int, head: AnswerHead) -> list[Effect]:
        part = self._current(number, attempt)
        if part is None:
            return []
        status, content_type = head.status, head.content_type
        part.status, part.content_type, part.retry_after_s = status, content_type, head.retry_after_s
        if status == 200 and head.node_name and head.node_name not in self.machines:
            self.machines.append(head.node_name)
        if status == 200 and content_type.startswith(EVENT_STREAM):
            part.stream = PartStream(self._identity, part.units.begin, part.units.end - part.units.begin)
        return []

    def part_data(self, number: int, attempt: int, chunk: bytes) -> list[Effect]:
        part = self._current(number, attempt)
        if part is None:
            return []
        if part.stream is not None:
            return self._stream_data(number, part, chunk)
        if part.status != 200 and sum(map(len, part.received)) + len(chunk) > ERROR_BODY_BYTES_MAX:
            return []
        part.received.append(chunk)
        if part.status == 200:
            self._hold(len(chunk))
        return []

    def part_ended(self, number: int, attempt: int, failure: Failure | None) -> list[Effect]:
        part = self._current(number, attempt)
        if part is None:
            return []
        body = b"".join(part.received)
        part.received.clear()
        if part.status == 200:
            self._let_go(len(body) if part.stream is None else 0)
        if failure is not None:
            return self._part_broken(number, part, failure)
        if part.status != 200:
            return self._part_refused(number, part, body)
        return self._stream_ended(number, part) if part.stream is not None else self._part_whole(number, part, body)

    def client_gone(self) -> list[Effect]:
        """Nothing more is delivered."""
        if self.over:
            return []
        self.status = CLIENT_GONE_STATUS
        return self._close()

    def pause(self) -> list[Effect]:
        """The client reads slowly."""
        self._paused = True
        return [HoldParts(True)] if self.units.streaming and not self.over else []

    def resume(self) -> list[Effect]:
        self._paused = False
        if self.over:
            return []
        return [HoldParts(False)] if self.units.streaming else self.proceed()

    def proceed(self) -> list[Effect]:
        """After the effects of every event, again and again until it returns none: what may go out or begin now.

        At most one piece at a time, since delivering it may make the client ask for a pause.
        """
        return [] if self.over or self.units.streaming else [*self._deliver(), *self._open_more()]

    # --- parts -------------------------------------------------------------------------------------------------------

    def _current(self, number: int, attempt: int) -> PartState | None:
        """None for what comes late: of an earlier request for the part, or after the end."""
        part = self.parts[number]
        late = self.over or part.phase is not PartPhase.RUNNING or part.attempt != attempt
        return None if late else part

    def _open_more(self) -> list[Effect]:
        """In order, as many as may run; while too much is held, none but the one that the client waits for."""
        effects: list[Effect] = []
        room = self._in_flight_max - len(self.running)
        for number, part in enumerate(self.parts):
            if room <= 0 or self.over:
                break
            if part.phase is PartPhase.WAITING and (not self._too_much_held or number == self._next):
                part.phase, part.attempt = PartPhase.RUNNING, part.attempt + 1
                part.status, part.stream, part.done_before = 0, None, self._done
                effects.append(OpenPart(number, part.attempt))
                room -= 1
        return effects

    def _again(self, part: PartState) -> list[Effect]:
        part.phase = PartPhase.WAITING
        return self._open_more()

    def _part_whole(self, number: int, part: PartState, body: bytes) -> list[Effect]:
        begin, end = part.units
        try:
            part.answer = merging.read_part(body, self._list_name, begin, end - begin)
        except MalformedAnswerError as error:
            return self._malformed(number, error)
        part.usage = part.answer.usage
        self._hold(len(part.answer.elements))
        self._part_done(part)
        return self.proceed()

    def _part_done(self, part: PartState) -> None:
        assert part.phase is PartPhase.RUNNING, "a part is done once"
        part.phase = PartPhase.DONE
        self._done += 1

    def _part_broken(self, number: int, part: PartState, failure: Failure) -> list[Effect]:
        """After its own retries; a stream of which something was passed on cannot begin again."""
        if part.stream is not None:
            error = part.stream.error or {"message": failure.message or failure.code.value, "code": "stream_broken"}
            return self._fail(number, BROKEN_STATUS, error, failure)
        part.broken += 1
        if part.broken < PART_TRIES_MAX and failure.code is not FailureCode.DEADLINE_EXCEEDED:
            return self._again(part)
        message = f"The answer broke off: {failure.message or failure.code.value}"
        return self._fail(number, BROKEN_STATUS, {"message": message, "code": "stream_broken"}, failure)

    def _part_refused(self, number: int, part: PartState, body: bytes) -> list[Effect]:
        """A part that found no machine in time may wait on while the others get on."""
        if part.status == 503 and self._done > part.done_before:
            return self._again(part)
        error = merging.error_of(body) or {"message": f"The engine answered {part.status}", "code": None}
        failure = Failure(FailureCode.INTERNAL, str(error.get("message", "")))
        return self._fail(number, part.status, error, failure, part.retry_after_s)

    # --- streams -----------------------------------------------------------------------------------------------------

    def _stream_data(self, number: int, part: PartState, chunk: bytes) -> list[Effect]:
        assert part.stream is not None
        try:
            out = part.stream.feed(chunk)
        except MalformedAnswerError as error:
            return self._malformed(number, error)
        if not out:
            return []
        return [*self._head(part.content_type), DeliverData(out)]

    def _stream_ended(self, number: int, part: PartState) -> list[Effect]:
        stream = part.stream
        assert stream is not None
        if stream.error is not None:
            failure = Failure(FailureCode.ENGINE_FAILED, str(stream.error.get("message", "")))
            return self._fail(number, BROKEN_STATUS, stream.error, failure)
        if not stream.complete:
            return self._malformed(number, MalformedAnswerError("it ended before every choice had finished"))
        part.usage = stream.usage
        self._part_done(part)
        if self._done < len(self.parts):
            return self._open_more()
        usage = self._usage()
        flag: merging.Json = {"parts": len(self.parts), "machines": self.machines}
        if any(each.stream is not None and each.stream.usage_estimated for each in self.parts):
            flag["usage_estimated"] = True
        last = (self._identity.usage_event(usage, flag) if usage else b"") + DONE_EVENT
        return [*self._head(part.content_type), DeliverData(last), *self._complete()]

    # --- whole answers -----------------------------------------------------------------------------------------------

    def _deliver(self) -> list[Effect]:
        """What can go out now, in order."""
        if self._done < len(self.parts) and not (self._flushing or self._too_much_held):
            return []
        self._flushing = True
        while self._next < len(self.parts) and self.parts[self._next].answer is not None:
            self._line_up(self.parts[self._next])
        effects: list[Effect] = self._head(JSON) if self._out else []
        if self._out and not self._paused:
            chunk = self._out.popleft()
            self._let_go(len(chunk))
            effects.append(DeliverData(chunk))
        if self._out or self._next < len(self.parts):
            return effects
        return [*effects, *self._complete()]

    def _line_up(self, part: PartState) -> None:
        answer, part.answer = part.answer, None
        assert answer is not None
        first, self._next = self._next == 0, self._next + 1
        around = merging.opening(answer, self._list_name) if first else b","
        end = merging.closing(self._usage()) if self._next == len(self.parts) else b""
        self._hold(len(around) + len(end))
        self._out.append(around + answer.elements + end)

    # --- ends --------------------------------------------------------------------------------------------------------

    def _usage(self) -> merging.Json:
        return merging.merged_usage((part.usage, self.units.first_choices(part.units)) for part in self.parts)

    def usage(self) -> tuple[int, int]:
        """(prompt tokens, output tokens) of the parts done so far, 0 where not told."""
        merged = self._usage()
        prompt, output = merged.get("prompt_tokens", 0), merged.get("completion_tokens", 0)
        return (prompt if isinstance(prompt, int) else 0, output if isinstance(output, int) else 0)

    def _complete(self) -> list[Effect]:
        return [DeliverEnd(None), *self._close()]

    def _malformed(self, number: int, error: MalformedAnswerError) -> list[Effect]:
        message = f"The engine's answer is not of the form that its API promises: {error}"
        failure = Failure(FailureCode.ENGINE_FAILED, message)
        return self._fail(number, BROKEN_STATUS, {"message": message, "code": "stream_broken"}, failure)

    def _fail(
        self, number: int, status: int, error: merging.Json, failure: Failure, retry_after_s: int = 0
    ) -> list[Effect]:
        """The whole request's one error; its other parts are aborted."""
        begin, end = self.parts[number].units
        noun = self.units.noun.capitalize()
        which = f"{noun} {begin}" if end - begin == 1 else f"{noun}s {begin} to {end - 1}"
        self.error = f"{which} of {self.units.count}: {error.get('message') or 'no reason was given'}"
        error = {"type": "server_error", "param": None, "code": None} | error | {"message": self.error}
        body = msgspec.json.encode({"error": error})
        if not self._head_sent:
            effects: list[Effect] = [*self._head(JSON, status, retry_after_s), DeliverData(body), DeliverEnd(None)]
        else:
            self.broken = True
            event = [DeliverData(b"data: " + body + b"\n\n")] if self.units.streaming else []
            effects = [*event, DeliverEnd(Failure(failure.code, self.error))]
        return [*effects, *self._close()]

    def _head(self, content_type: str, status: int = 200, retry_after_s: int = 0) -> list[Effect]:
        if self._head_sent:
            return []
        self._head_sent, self.status = True, status
        return [DeliverHead(status, content_type, retry_after_s)]

    def _close(self) -> list[Effect]:
        effects: list[Effect] = [CancelPart(number) for number in self.running]
        self.over = True
        self._budget.give_back(self._budgeted)
        self._budgeted = self._unbudgeted = 0
        self._out.clear()
        for part in self.parts:
            part.answer = None
            part.received.clear()
        return effects

    # --- what is held ------------------------------------------------------------------------------------------------

    @property
    def _too_much_held(self) -> bool:
        return self._unbudgeted > 0 or self._budgeted > self._held_max

    def _hold(self, size: int) -> None:
        if self._budget.take(size):
            self._budgeted += size
        else:
            self._unbudgeted += size

    def _let_go(self, size: int) -> None:
        freed = min(size, self._unbudgeted)
        self._unbudgeted -= freed
        self._budget.give_back(size - freed)
        self._budgeted -= size - freed
