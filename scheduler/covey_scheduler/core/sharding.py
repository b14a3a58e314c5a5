"""How one request with many independent units is cut into parts for a pool: a pure function of work and speeds.

Guided self-scheduling (Polychronopoulos and Kuck, IEEE Transactions on Computers C-36, 1987): each part is a share of
what is left, so parts get smaller and the last ones are small; whoever is free takes the next. Machines of unequal
speed count by their speed, as in weighted factoring (Hummel, Schmidt, Uma, Wein, SPAA 1996). Which machine takes a part
is decided when one is free (late binding), never here: a machine that slows down or dies simply takes fewer.

Not here: what a unit is, bodies and answers (covey_gateway.core.cutting), and who runs a part (policy.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

from covey_mesh.core.facts import EngineState, Member
from covey_scheduler.core.machine import Machine, machines_of


@dataclass(frozen=True, slots=True)
class ShardingSettings:
    """Validated on construction; ValueError names the field."""

    enabled: bool = True
    inputs_min: int = 32
    """Embedding requests with fewer inputs are left whole."""
    worth_s: float = 0.2
    """... and those that the fastest machine alone would finish within this time: a part costs a few milliseconds."""
    part_s_min: float = 0.1
    """Least work of a part, in seconds of the fastest machine: large against its cost, small against the whole."""
    share: float = 4.0
    """A part is at most what is left / (share x machines, counted by speed)."""
    slowness_max: float = 10.0
    """Parts are small enough that a machine this many times slower than the fastest, given the first one, is through
    with it in half the time that the whole will take."""
    parts_max: int = 256
    """Parts of one request."""
    choices_parts_max: int = 512
    """Parts of one request for prompts and choices, which are cut one by one: engines batch them themselves."""
    parts_a_machine: int = 8
    """Parts in flight for each machine: one runs, the others wait in the leader's queue, where a slow machine is given
    one as soon as it would be through with it before the fast ones are through with all that wait."""
    parts_in_flight_max: int = 256
    requests_max: int = 256
    """Cut requests at once in one gateway; the next one is left whole."""
    held_bytes_max: int = 64 * 1024 * 1024
    """Answers of one request held back until all is there; beyond it they are passed on in order as they come."""
    held_total_bytes_max: int = 512 * 1024 * 1024
    """... and of all requests together."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            least = 2 if item.name in ("inputs_min", "parts_max", "choices_parts_max") else 1
            if item.name not in ("enabled", "worth_s", "part_s_min") and value < least:
                raise ValueError(f"{item.name} must be at least {least}, not {value!r}")
            if value < 0:
                raise ValueError(f"{item.name} must not be negative, not {value!r}")


class Part(NamedTuple):
    """Units `begin` to `end`, the latter excluded."""

    begin: int
    end: int


class Worker(NamedTuple):
    """A machine that may take parts now. Speeds are tokens a second; `measured` is False for priors. `free`: requests
    that it could start at once."""

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    measured: bool
    free: int


FREE_UNKNOWN = 16
"""Places taken to be free where an engine tells no limit."""


def workers_of(model: str, members: Iterable[Member]) -> list[Worker]:
    """The machines that could be given work for `model`."""
    machines = machines_of(model, {member.node_id: member for member in members})
    return [_worker(machine) for machine in machines if _able(machine)]


def _able(machine: Machine) -> bool:
    load = machine.load
    return load is not None and load.state is EngineState.READY and machine.reachable and not machine.draining


def _worker(machine: Machine) -> Worker:
    load, speeds = machine.load, machine.speeds
    assert load is not None, "only able machines"
    admitted = load.running_requests + load.waiting_requests
    free = max(0, load.running_limit - admitted) if load.running_limit else FREE_UNKNOWN
    return Worker(speeds.prefill_tokens_per_s, speeds.decode_tokens_per_s, speeds.measured, free)


def cut_inputs(tokens: Sequence[int], workers: Sequence[Worker], settings: ShardingSettings) -> list[Part]:
    """Parts of independent inputs (embeddings) of so many tokens each, in order, none empty, nothing left out; a
    single part where cutting is not worth it.

    Time: one pass over the inputs. At most `parts_max` parts.
    """
    whole = [Part(0, len(tokens))]
    if len(workers) < 2 or len(tokens) < settings.inputs_min:
        return whole
    speeds = [worker.prefill_tokens_per_s for worker in workers]
    fastest = max(speeds)
    total = sum(tokens)
    least = total / (settings.parts_max - 1)
    if all(worker.measured for worker in workers):
        if total < settings.worth_s * fastest:
            return whole
        least = max(least, settings.part_s_min * fastest)
    else:
        least = max(least, total * settings.inputs_min / (4 * len(tokens)))
    machines = sum(speeds) / fastest
    slowness = min(settings.slowness_max, fastest / min(speeds))
    return guided(tokens, 1 / (max(settings.share, 2 * slowness) * machines), least)


def guided(work: Sequence[float], share: float, least: float) -> list[Part]:
    """Each part is about `share` of the work that is left, never less than `least` (but where it all is)."""
    left = float(sum(work))
    parts: list[Part] = []
    begin = 0
    while begin < len(work):
        wanted = max(share * left, least)
        taken, end = 0.0, begin
        while end < len(work) and (taken < wanted or left - taken < least):
            taken += work[end]
            end += 1
        parts.append(Part(begin, end))
        begin, left = end, left - taken
    return parts


def cut_choices(prompts: int, choices: int, settings: ShardingSettings) -> list[Part]:
    """Parts of `prompts` x `choices` texts to write, numbered prompt x choices + choice: one each, or, beyond
    `choices_parts_max`, as few as possible of equal size that are whole prompts or lie within one."""
    units = prompts * choices
    size = -(-units // settings.choices_parts_max)
    if size >= choices:
        size = -(-size // choices) * choices
        return [Part(begin, min(begin + size, units)) for begin in range(0, units, size)]
    while prompts * -(-choices // size) > settings.choices_parts_max:
        size += 1
    return [
        Part(first + begin, first + min(begin + size, choices))
        for first in range(0, units, choices)
        for begin in range(0, choices, size)
    ]


def choices_worth_it(prompt_tokens: int, output_tokens: int, workers: Sequence[Worker]) -> bool:
    """True if several answers to one prompt may be written by several machines: each computes the prompt again, which
    must not cost more than writing one answer, where that is known."""
    if len(workers) < 2:
        return False
    measured = [worker for worker in workers if worker.measured]
    if not measured:
        return True
    fastest = max(measured, key=lambda worker: worker.decode_tokens_per_s)
    return prompt_tokens / fastest.prefill_tokens_per_s <= output_tokens / fastest.decode_tokens_per_s


def in_flight_limit(workers: Sequence[Worker], batched: bool, settings: ShardingSettings) -> int:
    """Parts open at once. `batched`: engines run many of them side by side (answers to write), so free places count."""
    spare = settings.parts_a_machine * len(workers)
    places = sum(worker.free for worker in workers) + len(workers) if batched else 0
    return min(max(spare, places), settings.parts_in_flight_max)
