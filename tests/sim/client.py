"""Clients of a simulated pool: continuous load at random gateways, and what became of every single request.

Checked here, for each answer as it ends (S3 of DESIGN.md): head once, then bytes, then one end; the bytes are exactly
the words that an undisturbed engine would have said, in order, none twice, none missing, up to one finish or one
error. What a pool owes beyond that is in properties.py.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
from tests.sim.loop import Timer, VirtualLoop
from tests.sim.machine import ENGINE, MODEL, Machine

from covey_gateway.core.front import ActiveRequest, AnswerHead, ClientSink, IncomingRequest
from covey_mesh.core.exchange import Failure
from covey_node.core import simulated_openai as openai

PROMPTS = 40
OUTPUT_TOKENS_MAX = 24
PRIORITIES = (None, 0, 1, 2)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Violation(AssertionError):
    """A property does not hold."""


@cache
def _prompt(number: int) -> str:
    return " ".join(f"w{number}x{i}" for i in range(5 + number * number % 211))


@cache
def _expected(path: str, number: int, choices: int) -> tuple[tuple[str, ...], ...]:
    """The words that any engine of the pool answers to this prompt, for each choice."""
    body = _body(path, number, True, OUTPUT_TOKENS_MAX, choices)
    call = openai.parse(path, body, MODEL, False, ENGINE.max_context_tokens, ENGINE.seed)
    return tuple(
        tuple(openai.word(ENGINE.seed, choice.key, i) for i in range(OUTPUT_TOKENS_MAX)) for choice in call.choices
    )


@cache
def _body(path: str, number: int, stream: bool, tokens: int, choices: int) -> bytes:
    asked: dict[str, Any] = {"model": MODEL, "stream": stream, "max_tokens": tokens}
    if choices > 1:
        asked |= {"n": choices, "seed": number}
    if path == CHAT:
        asked["messages"] = [{"role": "user", "content": _prompt(number)}]
    else:
        asked["prompt"] = _prompt(number)
    return msgspec.json.encode(asked)


@dataclass(frozen=True, slots=True)
class Asked:
    """One kind of request."""

    path: str
    prompt: int
    stream: bool
    tokens: int
    choices: int = 1

    @property
    def body(self) -> bytes:
        return _body(self.path, self.prompt, self.stream, self.tokens, self.choices)

    @property
    def expected(self) -> list[tuple[str, ...]]:
        """The words of each choice."""
        return [words[: self.tokens] for words in _expected(self.path, self.prompt, self.choices)]


class Request(ClientSink):
    """One client's request and its answer (covey_gateway.core.front.ClientSink)."""

    def __init__(
        self,
        asked: Asked,
        machine: Machine,
        now_s: float,
        ended: Callable[[Request], None],
        found: Callable[[str], None],
    ) -> None:
        self.asked = asked
        self.machine = machine
        self.process = machine.process
        self.runner = machine.runner
        self.submitted_s = now_s
        self.ended_s: float | None = None
        self.status = 0
        self.outcome = ""
        self.detail = ""
        self.cancelled = False
        self.active: ActiveRequest | None = None
        self._chunks: list[bytes] = []
        self._on_end = ended
        self._found = found

    @property
    def open(self) -> bool:
        """Still owed an end: neither ended, nor left by its client, nor gone with its gateway."""
        return not self.outcome and not self.cancelled and not self.process.dead

    def __repr__(self) -> str:
        name = self.active.request_id if self.active is not None else "?"
        return f"request {name} at {self.machine.address} t={self.submitted_s:.3f} {self.asked.path} {self.outcome}"

    def head(self, head: AnswerHead) -> None:
        self._check(self.status == 0, "a second head")
        self._check(not self.outcome and not self.cancelled, "a head after the end")
        self.status = head.status

    def data(self, chunk: bytes) -> None:
        self._check(self.status != 0, "bytes before the head")
        self._check(not self.outcome and not self.cancelled, "bytes after the end")
        self._chunks.append(chunk)

    def end(self, failure: Failure | None) -> None:
        ended_before = bool(self.outcome)
        self._check(not ended_before, "a second end")
        self._check(not self.cancelled, "an end after the client left")
        self.ended_s = self.process.loop.now_s
        self.outcome = self._outcome(b"".join(self._chunks), failure)
        if not ended_before:
            self._on_end(self)

    def _check(self, holds: bool, what: str) -> None:
        """Recorded, not raised: covey would take an exception in here for its own bug."""
        if not holds:
            self._found(f"S3: {what}: {self}")

    def _outcome(self, answer: bytes, failure: Failure | None) -> str:
        if failure is not None:
            self.detail = failure.message
        if self.status != 200:
            error = msgspec.json.decode(answer)["error"]
            self.detail = error["message"]
            return f"{self.status} {error['code']}"
        return self._stream(answer, failure) if self.asked.stream else self._whole(answer, failure)

    def _whole(self, answer: bytes, failure: Failure | None) -> str:
        if failure is not None:
            return "broken"
        choices = msgspec.json.decode(answer)["choices"]
        said = [choice["message"]["content"] if self.asked.path == CHAT else choice["text"] for choice in choices]
        expected = ["".join(words) for words in self.asked.expected]
        self._check([choice["index"] for choice in choices] == list(range(len(expected))), "choices out of order")
        self._check(said == expected, f"the answer is {said!r} instead of {expected!r}")
        return "completed"

    def _stream(self, answer: bytes, failure: Failure | None) -> str:
        parts = answer.split(b"\n\n")
        self._check(parts[-1] == b"", f"a torn event: {parts[-1]!r}")
        expected = self.asked.expected
        said, finished = [0] * len(expected), [False] * len(expected)
        errors, done = 0, False
        for part in parts[:-1]:
            self._check(errors == 0 and not done, "an event after the end")
            self._check(part.startswith(b"data: "), f"an event without data: {part!r}")
            if part == b"data: [DONE]":
                self._check(all(finished), "[DONE] without a finish")
                done = True
                continue
            event = msgspec.json.decode(part[6:])
            if "error" in event:
                errors += 1
                continue
            for choice in event["choices"]:
                index = choice["index"]
                self._check(index < len(expected) and not finished[index], f"choice {index} goes on after its finish")
                piece = choice["delta"].get("content", "") if self.asked.path == CHAT else choice["text"]
                if not self._goes_on(piece, expected[index], said, index):
                    return "torn"
                finished[index] = choice.get("finish_reason") is not None
        if failure is None:
            self._check(done and errors == 0, "the end of a stream without a finish")
            self._check(said == [len(words) for words in expected], f"{said} of {len(expected[0])} tokens each")
            return "completed"
        self._check(errors == 1 and not done, f"a broken stream with {errors} errors, done: {done}")
        return "broken"

    def _goes_on(self, piece: str, expected: tuple[str, ...], said: list[int], index: int) -> bool:
        """`piece` is the next words of this choice, which are counted in `said`."""
        while piece:
            word = expected[said[index]] if said[index] < len(expected) else "nothing"
            self._check(piece.startswith(word), f"token {said[index]} is {piece!r} instead of {word!r}")
            if not piece.startswith(word):
                return False
            piece, said[index] = piece[len(word) :], said[index] + 1
        return True

    def cancel(self) -> None:
        """The client leaves."""
        if self.open and self.active is not None:
            self.process.enter(self._leave)

    def _leave(self) -> None:
        """The gateway notices; until then its answer may still be on its way."""
        if self.open and self.active is not None:
            self.cancelled = True
            self.active.cancel()


@dataclass(frozen=True, slots=True)
class Habits:
    """What the clients of one pool do. Shares are of all requests."""

    requests_per_s: float = 1.2
    streaming: float = 0.7
    leaving: float = 0.06
    pausing: float = 0.06
    bursting: float = 0.02
    burst: int = 12
    choices: int = 3
    """Of every `cut_every`-th request, which the gateway cuts over the pool."""
    cut_every: int = 13


class Clients:
    """Submits until `stop`. `requests` are those not yet ended; `outcomes` counts the others."""

    def __init__(
        self,
        loop: VirtualLoop,
        machines: list[Machine],
        dice: random.Random,
        habits: Habits,
        found: Callable[[str], None],
    ) -> None:
        self.habits = habits
        self.requests: dict[Request, None] = {}
        self.outcomes: Counter[str] = Counter()
        self.submitted = 0
        self.on_end: Callable[[Request], None] = lambda request: None
        self._found = found
        self._loop = loop
        self._machines = machines
        self._dice = dice
        self._timer: Timer | None = None

    def start(self) -> None:
        self._plan()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _plan(self) -> None:
        self._timer = self._loop.call_later(self._dice.expovariate(self.habits.requests_per_s), self._arrive)

    def _arrive(self) -> None:
        self._plan()
        for _ in range(self.habits.burst if self._dice.random() < self.habits.bursting else 1):
            here = [m for m in self._machines if m.running and not m.runner._draining]
            if here:
                self.ask(self._dice.choice(here))

    def ask(self, machine: Machine, asked: Asked | None = None) -> Request:
        """One request at this gateway now."""
        dice, habits = self._dice, self.habits
        asked = asked or Asked(
            CHAT if dice.random() < 0.5 else COMPLETIONS,
            dice.randrange(PROMPTS),
            dice.random() < habits.streaming,
            dice.randint(1, OUTPUT_TOKENS_MAX),
            habits.choices if self.submitted % habits.cut_every == habits.cut_every - 1 else 1,
        )
        request = Request(asked, machine, self._loop.now_s, self._ended, self._found)
        self.requests[request] = None
        self.submitted += 1
        machine.process.enter(self._submit, request)
        if dice.random() < habits.leaving:
            self._loop.call_later(dice.uniform(0.0, 1.0), request.cancel)
        if asked.stream and dice.random() < habits.pausing:
            self._loop.call_later(dice.uniform(0.0, 0.3), self._pause, request)
        return request

    def _submit(self, request: Request) -> None:
        asked = request.asked
        priority = PRIORITIES[asked.prompt % len(PRIORITIES)]
        incoming = IncomingRequest(asked.path, asked.body, f"user-{asked.prompt % 3}", priority)
        request.active = request.runner.submit(incoming, request)

    def _pause(self, request: Request) -> None:
        if request.open and request.active is not None:
            request.process.enter(request.active.pause)
            self._loop.call_later(self._dice.uniform(0.05, 1.0), self._resume, request)

    def _resume(self, request: Request) -> None:
        if request.open and request.active is not None:
            request.process.enter(request.active.resume)

    def _ended(self, request: Request) -> None:
        del self.requests[request]
        self.outcomes[request.outcome] += 1
        self.on_end(request)

    def forget_excused(self) -> None:
        """Those whose client left or whose gateway is gone."""
        for request in [request for request in self.requests if not request.open]:
            del self.requests[request]
            self.outcomes["client left" if request.cancelled else "gateway gone"] += 1
