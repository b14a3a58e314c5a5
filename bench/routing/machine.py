"""One simulated machine: the model of an engine behind the node's own admission and meter, and its load reports."""

from __future__ import annotations

from bench.routing.engine import Engine, EngineProfile, Sequence_
from bench.routing.trace import BLOCK_TOKENS
from covey_mesh.core.facts import EngineState, Member, ModelLoad, NodeFacts, NodeLoad, Task
from covey_mesh.core.model_size import attention_per_token
from covey_mesh.core.names import NodeId
from covey_node.core.admission import Admission, Bounds, Place, Ticket
from covey_node.core.measured import Measured
from covey_node.core.meter import Meter, Metered

MODEL = "bench"
CALIBRATION_TOKENS = 2048
"""Prompt with which each machine measures itself before the first request."""


class Attempt:
    """One request on one machine."""

    __slots__ = ("first_at_s", "key", "machine", "metered", "output_tokens", "sequence", "ticket")

    def __init__(self, key: tuple[int, int], machine: Machine, ticket: Ticket, sequence: Sequence_) -> None:
        self.key, self.machine, self.ticket, self.sequence = key, machine, ticket, sequence
        self.metered: Metered | None = None
        self.first_at_s: float | None = None


class Machine:
    """Times are the simulation's. `version` changes whenever the engine's next step does."""

    def __init__(self, number: int, speed: float, profile: EngineProfile) -> None:
        self.node_id = NodeId(f"{number:032x}")
        self.speed = speed
        self.profile = profile
        self.alive = True
        self.incarnation = 0
        self.facts = NodeFacts(self.node_id, f"m{number}", "0", 1, 1)
        self.start()

    def start(self) -> None:
        """A new life, with an empty cache and a speed measured on one prompt and one answer."""
        profile = self.profile
        self.incarnation += 1
        self.sequence = 0
        self.engine = Engine(self.speed, profile, BLOCK_TOKENS)
        self.meter = Meter(attention_per_token(MODEL))
        self.measured = Measured(self.meter, Task.GENERATE)
        bounds = Bounds.of_engine(profile.streams_max, profile.kv_tokens, profile.context_tokens)
        self.admission = Admission(bounds, self.meter)
        self.attempts: dict[Ticket, Attempt] = {}
        metered = self.meter.started(CALIBRATION_TOKENS, True, 0.0)
        prompt_s = (CALIBRATION_TOKENS * profile.prompt_token_s + profile.step_s) / self.speed
        self.meter.tokens(metered, 1, prompt_s)
        self.meter.tokens(metered, 64, prompt_s + 64 * profile.step_s / self.speed)
        self.meter.ended(metered, prompt_s + 64 * profile.step_s / self.speed)

    def offer(self, key: tuple[int, int], prompt: int, output: int, blocks: tuple[int, ...], now_s: float) -> bool:
        """False: refused."""
        verdict = self.admission.offer(f"{key[0]}", key[1], prompt, 0, 0, now_s)
        if verdict.ticket is None:
            return False
        attempt = Attempt(key, self, verdict.ticket, Sequence_(None, prompt, output, blocks))
        attempt.sequence.owner = attempt
        self.attempts[verdict.ticket] = attempt
        if verdict.ticket.place is Place.RUNNING:
            self._run(attempt, now_s)
        return True

    def advance(self, now_s: float) -> tuple[list[Attempt], list[Attempt]]:
        """The engine's step is over: attempts with a first token, attempts complete."""
        first, done = self.engine.advance(now_s)
        started = [self._first(sequence, now_s) for sequence in first]
        ended = [self._done(sequence, now_s) for sequence in done]
        return started, ended

    def member(self, now_s: float) -> Member:
        """The report as of now."""
        self.sequence += 1
        for attempt in self.attempts.values():
            produced = self.engine.produced(attempt.sequence)
            if produced > attempt.ticket.output_tokens:
                self.admission.progressed(attempt.ticket, produced - attempt.ticket.output_tokens)
        admission = self.admission
        speeds = self.measured.report(now_s, now_s)
        load = ModelLoad(
            model=MODEL,
            state=EngineState.READY,
            engine="model",
            task=Task.GENERATE,
            max_context_tokens=self.profile.context_tokens,
            running_requests=admission.running,
            waiting_requests=admission.waiting,
            running_limit=admission.running_limit,
            waiting_limit=admission.bounds.waiting,
            queued_tokens=admission.queued_tokens,
            queued_prompt_tokens=admission.queued_prompt_tokens,
            kv_cache_tokens_total=admission.bounds.kv_tokens,
            kv_cache_tokens_free=admission.kv_tokens_free,
            prefill_tokens_per_s=self.meter.prefill_tokens_per_s,
            decode_tokens_per_s=self.meter.stream_tokens_per_s(admission.running),
            speeds=speeds,
        )
        return Member(self.facts, NodeLoad(self.node_id, self.incarnation, self.sequence, (), (load,)), reachable=True)

    def _run(self, attempt: Attempt, now_s: float) -> None:
        sequence = attempt.sequence
        # The engine tells how much of a prompt it had cached; speeds are of what it computed.
        cached = self.engine.cached_tokens(sequence.blocks, sequence.prompt_tokens)
        attempt.metered = self.meter.started(sequence.prompt_tokens, True, now_s, cached)
        self.engine.add(sequence, now_s)

    def _first(self, sequence: Sequence_, now_s: float) -> Attempt:
        attempt = sequence.owner
        assert isinstance(attempt, Attempt)
        assert attempt.metered is not None
        attempt.first_at_s = now_s
        self.meter.tokens(attempt.metered, 1, now_s)
        return attempt

    def _done(self, sequence: Sequence_, now_s: float) -> Attempt:
        attempt = sequence.owner
        assert isinstance(attempt, Attempt)
        assert attempt.metered is not None
        self.meter.tokens(attempt.metered, sequence.output_tokens - 1, now_s)
        self.meter.ended(attempt.metered, now_s)
        self.admission.progressed(attempt.ticket, sequence.output_tokens - attempt.ticket.output_tokens)
        del self.attempts[attempt.ticket]
        for ticket in self.admission.release(attempt.ticket):
            self._run(self.attempts[ticket], now_s)
        return attempt
