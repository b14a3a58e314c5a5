"""The node's last word on a request: run it, let it wait, or refuse it with a reason and a time to come back.

One Admission guards one engine. It is called from one thread and decides in one step, so that no two requests are
given the same room. Bounds: requests running (the engine's own limit), KV-cache tokens reserved by them, requests
waiting, bytes of waiting bodies, and time waited. Order of arrival is kept: a large request at the head is not
overtaken for ever by small ones.

A reservation is the prompt and the output to expect: the client's max_tokens, or less where answers have been shorter
(vLLM allocates page by page and recomputes when it must, so reserving every max_tokens in full would idle it).

Not here: aborting, timers, the engine (covey_node.io.node).
"""

from __future__ import annotations

from collections import OrderedDict, deque

from covey_mesh.core.exchange import Failure, FailureCode
from covey_mesh.core.frozen import frozen
from covey_mesh.core.marks import MARKS_MAX
from covey_node.core.meter import Meter
from covey_node.core.retry_after import retry_after_ms
from covey_node.core.ticket import Place, Ticket

WAITING_MAX = 256
"""Requests that wait here at most; the pool's queue is at the leader, this one only bridges a message's way."""

WAITING_BODY_BYTES_MAX = 256 * 1024 * 1024
WAITING_S_MAX = 30.0
"""A request that waited this long here is handed back: another machine, or the leader's queue, suits it better."""

ATTEMPTS_REMEMBERED = 4096
"""Requests whose highest attempt is remembered, the oldest forgotten first."""

EXPECTED_OUTPUT_TOKENS_FIRST = 256
EXPECTED_OUTPUT_HEADROOM = 1.5
EXPECTED_OUTPUT_DECAY = 0.95
_NEWEST_SHARE = 1 - EXPECTED_OUTPUT_DECAY
RESERVED_TOKENS_FIRST = 512
"""What a request is taken to reserve before the first was seen."""


@frozen
class Bounds:
    """What one engine can take. `kv_tokens` 0: unknown (an embedding engine without a KV cache), not a bound."""

    running: int
    waiting: int
    kv_tokens: int
    context_tokens: int

    @staticmethod
    def of_engine(running_limit: int, kv_tokens: int, context_tokens: int) -> Bounds:
        """Waiting is bounded by what runs at once: a longer line would be served sooner elsewhere."""
        return Bounds(running_limit, min(WAITING_MAX, max(1, running_limit)), kv_tokens, context_tokens)


_WAITING, _RUNNING, _GONE = Place.WAITING, Place.RUNNING, Place.GONE


@frozen
class Verdict:
    """The answer to one offer: a ticket (see its place) or a failure. `superseded` must be aborted and released."""

    ticket: Ticket | None = None
    failure: Failure | None = None
    superseded: Ticket | None = None


class Admission:
    """Admits attempts to one engine; every ticket given out comes back through `release` exactly once."""

    def __init__(self, bounds: Bounds, meter: Meter) -> None:
        self.bounds = bounds
        self._meter = meter
        self._running: set[Ticket] = set()
        self._waiting: deque[Ticket] = deque()
        self._waiting_bytes = 0
        self._reserved_tokens = 0
        self._live: dict[str, Ticket] = {}
        self._attempts: OrderedDict[str, int] = OrderedDict()
        self._mean_output_tokens = EXPECTED_OUTPUT_TOKENS_FIRST / EXPECTED_OUTPUT_HEADROOM
        self._mean_reserved_tokens = float(RESERVED_TOKENS_FIRST)
        self._prompts_due_s = 0.0

    @property
    def marks(self) -> frozenset[int] | None:
        """Of the attempts admitted and not over; None where they are too many to be told."""
        return frozenset(t.mark for t in self._live.values()) if len(self._live) <= MARKS_MAX else None

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def running_limit(self) -> int:
        """Requests of the usual size that run at once: the engine's limit, or fewer where KV cache ends first."""
        if self.bounds.kv_tokens == 0:
            return self.bounds.running
        return min(self.bounds.running, max(1, int(self.bounds.kv_tokens / self._mean_reserved_tokens)))

    @property
    def kv_tokens_free(self) -> int:
        """Not reserved; 0 where the capacity is unknown."""
        return max(0, self.bounds.kv_tokens - self._reserved_tokens)

    @property
    def queued_tokens(self) -> int:
        """Over running and waiting attempts: prompts not yet prefilled, output still expected."""
        return sum(ticket.queued_tokens for ticket in self._live.values())

    @property
    def queued_prompt_tokens(self) -> int:
        """Of those, the prompts': whole prompts whose first token has not come."""
        return sum(ticket.prompt_tokens for ticket in self._live.values() if not ticket.output_tokens)

    def prompt_tokens_left(self, now_s: float) -> int:
        """As `queued_prompt_tokens`, but an answer that comes as a whole does not show when its prompt was computed: it
        is taken to be, when the engine should have come to it at the measured speed."""
        speed = self._meter.prefill_tokens_per_s
        left = 0
        for ticket in self._live.values():
            if ticket.output_tokens:
                continue
            if ticket.prompt_due_s is None and ticket.place is Place.RUNNING and speed > 0:
                start_s = max(self._prompts_due_s, now_s)
                self._prompts_due_s = ticket.prompt_due_s = start_s + ticket.prompt_tokens / speed
            due_s = None if ticket.streaming else ticket.prompt_due_s
            left += ticket.prompt_tokens if due_s is None or now_s < due_s else 0
        return left

    def admit(
        self,
        request_id: str,
        attempt: int,
        prompt_tokens: int,
        max_output_tokens: int,
        body_bytes: int,
        now_s: float,
        streaming: bool,
    ) -> Ticket | None:
        """The common case of `offer`, with the same outcome as `decide`: a request not seen before, with room for it to
        run at once. None: nothing was decided."""
        bounds = self.bounds
        if self._waiting or request_id in self._attempts or len(self._running) >= bounds.running:
            return None
        expected = self._expected(prompt_tokens, max_output_tokens)
        reserved, kv_tokens = prompt_tokens + expected, bounds.kv_tokens
        if kv_tokens and self._reserved_tokens + reserved > kv_tokens:
            return None
        if request_id in self._live:  # for longer than others are remembered
            return None
        attempts = self._attempts
        attempts[request_id] = attempt
        if len(attempts) > ATTEMPTS_REMEMBERED:
            attempts.popitem(last=False)
        ticket = Ticket(request_id, attempt, prompt_tokens, expected, reserved, body_bytes, now_s, streaming, _RUNNING)
        self._live[request_id] = ticket
        self._running.add(ticket)
        self._reserved_tokens += reserved
        self._mean_reserved_tokens = self._mean_reserved_tokens * EXPECTED_OUTPUT_DECAY + reserved * _NEWEST_SHARE
        return ticket

    def offer(
        self,
        request_id: str,
        attempt: int,
        prompt_tokens: int,
        max_output_tokens: int,
        body_bytes: int,
        now_s: float,
        streaming: bool = True,
    ) -> Verdict:
        """Decide on one attempt; `max_output_tokens` 0: the client set none."""
        ticket = self.admit(request_id, attempt, prompt_tokens, max_output_tokens, body_bytes, now_s, streaming)
        if ticket is not None:
            return Verdict(ticket)
        return self.decide(request_id, attempt, prompt_tokens, max_output_tokens, body_bytes, now_s, streaming)

    def decide(
        self,
        request_id: str,
        attempt: int,
        prompt_tokens: int,
        max_output_tokens: int,
        body_bytes: int,
        now_s: float,
        streaming: bool,
    ) -> Verdict:
        """Every case."""
        stale = self._stale(request_id, attempt)
        if stale is not None:
            return Verdict(failure=stale)
        superseded = self._live.get(request_id)
        expected = self._expected(prompt_tokens, max_output_tokens)
        reserved = self._reservation(prompt_tokens, expected)
        ticket = Ticket(request_id, attempt, prompt_tokens, expected, reserved, body_bytes, now_s, streaming, _WAITING)
        refused = self._refusal(ticket, superseded)
        if refused is not None:
            return Verdict(failure=refused, superseded=superseded)
        self._live[request_id] = ticket
        if self._fits(ticket) and not self._waiting:
            self._run(ticket)
        else:
            self._waiting.append(ticket)
            self._waiting_bytes += body_bytes
        return Verdict(ticket, superseded=superseded)

    def release(self, ticket: Ticket) -> list[Ticket]:
        """The attempt is over, however it ended; returns those that now run in its place, in order of arrival."""
        place, ticket.place = ticket.place, _GONE
        if place is _RUNNING:
            self._running.remove(ticket)
            self._reserved_tokens -= ticket.reserved_tokens
            if ticket.output_tokens > 0:  # learned from
                older = self._mean_output_tokens * EXPECTED_OUTPUT_DECAY
                self._mean_output_tokens = older + ticket.output_tokens * _NEWEST_SHARE
        elif place is _WAITING:
            self._waiting.remove(ticket)
            self._waiting_bytes -= ticket.body_bytes
        if self._live.get(ticket.request_id) is ticket:
            del self._live[ticket.request_id]
        return self._admit_waiting() if self._waiting else []

    def answered(self, ticket: Ticket, prompt_tokens: int, output_tokens: int) -> list[Ticket]:
        """The attempt is over with the engine's own counts: as `corrected`, and then `release`."""
        ticket.prompt_tokens, ticket.output_tokens = prompt_tokens, output_tokens
        return self.release(ticket)

    def progressed(self, ticket: Ticket, tokens: int) -> None:
        """Output arrived; an answer that outgrows its reservation reserves what it really holds."""
        ticket.output_tokens += tokens
        held = ticket.prompt_tokens + ticket.output_tokens
        if held > ticket.reserved_tokens and ticket.place is Place.RUNNING:
            self._reserved_tokens += held - ticket.reserved_tokens
            ticket.reserved_tokens = held

    def corrected(self, ticket: Ticket, prompt_tokens: int, output_tokens: int) -> None:
        """The engine's own counts, where it reported them."""
        ticket.prompt_tokens = prompt_tokens
        ticket.output_tokens = 0
        self.progressed(ticket, output_tokens)

    def expired(self, now_s: float) -> list[Ticket]:
        """Attempts that have waited too long; the caller fails and releases each."""
        return [ticket for ticket in self._waiting if now_s - ticket.since_s >= WAITING_S_MAX]

    def refusal(self, why: str) -> Failure:
        """RESOURCE_EXHAUSTED with the reason and, from measured speed, when to come back."""
        running = [max(0, t.expected_output_tokens - t.output_tokens) for t in self._running]
        waiting_prompts = sum(t.prompt_tokens for t in self._waiting)
        wait_ms = retry_after_ms(
            running, self.waiting, waiting_prompts, self._meter.prefill_tokens_per_s, self._meter.decode_tokens_per_s
        )
        return Failure(FailureCode.RESOURCE_EXHAUSTED, why, wait_ms)

    def _stale(self, request_id: str, attempt: int) -> Failure | None:
        seen = self._attempts.get(request_id, 0)
        live = self._live.get(request_id)
        if attempt < seen or (live is not None and attempt <= live.attempt):
            return Failure(FailureCode.STALE_ATTEMPT, f"attempt {seen} of this request was already seen here")
        self._attempts[request_id] = attempt
        self._attempts.move_to_end(request_id)
        if len(self._attempts) > ATTEMPTS_REMEMBERED:
            self._attempts.popitem(last=False)
        return None

    def _expected(self, prompt_tokens: int, max_output_tokens: int) -> int:
        """Output tokens, at least one."""
        expected = round(self._mean_output_tokens * EXPECTED_OUTPUT_HEADROOM) or 1
        if 0 < max_output_tokens < expected:
            expected = max_output_tokens
        context_tokens = self.bounds.context_tokens
        if context_tokens and expected > context_tokens - prompt_tokens:
            expected = max(1, context_tokens - prompt_tokens)
        return expected

    def _reservation(self, prompt: int, expected: int) -> int:
        """Never more than there is: such a request runs alone rather than never."""
        tokens = prompt + expected
        return min(tokens, self.bounds.kv_tokens) if self.bounds.kv_tokens else tokens

    def _refusal(self, ticket: Ticket, superseded: Ticket | None) -> Failure | None:
        """A prompt beyond the context is left to the engine, which counts exactly and answers 400."""
        bounds = self.bounds
        if bounds.kv_tokens and bounds.kv_tokens < ticket.prompt_tokens <= bounds.context_tokens:
            return self.refusal(f"the prompt needs {ticket.prompt_tokens} tokens of KV cache, {bounds.kv_tokens} exist")
        if self._fits(ticket) and not self._waiting:
            return None
        leaving = superseded if superseded is not None and superseded.place is Place.WAITING else None
        if self.waiting - (leaving is not None) >= bounds.waiting:
            return self.refusal(f"{self.running} requests running and {self.waiting} waiting, the most allowed")
        held = self._waiting_bytes - (leaving.body_bytes if leaving else 0)
        if held + ticket.body_bytes > WAITING_BODY_BYTES_MAX:
            return self.refusal(f"{held} bytes of requests are waiting, the most allowed")
        return None

    def _fits(self, ticket: Ticket) -> bool:
        if self.running >= self.bounds.running:
            return False
        if self.bounds.kv_tokens == 0 or self.running == 0:
            return True
        return self._reserved_tokens + ticket.reserved_tokens <= self.bounds.kv_tokens

    def _run(self, ticket: Ticket) -> None:
        ticket.place = _RUNNING
        self._running.add(ticket)
        self._reserved_tokens += ticket.reserved_tokens
        older = self._mean_reserved_tokens * EXPECTED_OUTPUT_DECAY
        self._mean_reserved_tokens = older + ticket.reserved_tokens * _NEWEST_SHARE

    def _admit_waiting(self) -> list[Ticket]:
        started = []
        while self._waiting and self._fits(self._waiting[0]):
            ticket = self._waiting.popleft()
            self._waiting_bytes -= ticket.body_bytes
            self._run(ticket)
            started.append(ticket)
        return started
