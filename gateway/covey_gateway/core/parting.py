"""Which requests are cut over machines, into which parts, and what is known of each part as a request of its own.

Not here: how a body is cut (cutting.py), how large parts are (covey_scheduler.core.sharding), what happens to parts
that run (sharded_request.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from covey_gateway.core import request_events as ev
from covey_gateway.core.cutting import CUT_PATHS, Units, units_of
from covey_gateway.core.routing_fields import TOKENS_MAX, RoutingFields
from covey_mesh.core.facts import Member
from covey_scheduler.core.sharding import (
    Part,
    ShardingSettings,
    Worker,
    choices_worth_it,
    cut_choices,
    cut_inputs,
    in_flight_limit,
    workers_of,
)


@dataclass(frozen=True, slots=True)
class CutRequest:
    """A request to be answered in parts. `facts` are the whole request's; `context_tokens` 0: unknown;
    `in_flight_max`: parts at once."""

    facts: ev.RequestFacts
    units: Units
    parts: list[Part]
    in_flight_max: int
    bytes_per_token: float
    context_tokens: int

    def part_facts(self, number: int, attempt: int, part: Part, now_s: float) -> ev.RequestFacts:
        """Of the request for one part."""
        whole, units = self.facts, self.units
        tokens = units.prompt_tokens(part, self.bytes_per_token) or [whole.prompt_tokens]
        total = min(sum(tokens), TOKENS_MAX)
        texts, choices = part.end - part.begin, units.choices
        return replace(
            whole,
            request_id=f"{whole.request_id}.{number}" + (f"-{attempt}" if attempt > 1 else ""),
            prompt_tokens=total,
            longest_prompt_tokens=min(total, self.context_tokens or total) if len(tokens) > 1 else 0,
            max_output_tokens=whole.max_output_tokens // choices * texts,
            answer_tokens_most=whole.answer_tokens_most // choices * texts,
            arrived_s=now_s,
            # The same prompt everywhere would draw all its choices to one machine.
            prefix_hashes=whole.prefix_hashes if number == 0 and units.prompts == 1 else (),
        )


def cut(
    facts: ev.RequestFacts,
    body: bytes,
    fields: RoutingFields,
    members: Iterable[Member],
    context_tokens: int,
    bytes_per_token: float,
    settings: ShardingSettings,
) -> CutRequest | None:
    """None where the request stays whole, as one with a single unit does."""
    if not settings.enabled or facts.path not in CUT_PATHS:
        return None
    workers = workers_of(facts.model, members)
    units = units_of(facts.path, body, fields) if len(workers) > 1 else None
    if units is None:
        return None
    parts = _parts(facts, units, workers, bytes_per_token, settings)
    if len(parts) < 2:
        return None
    in_flight_max = in_flight_limit(workers, not units.embeds, settings)
    return CutRequest(facts, units, parts, in_flight_max, bytes_per_token, context_tokens)


def _parts(
    facts: ev.RequestFacts, units: Units, workers: list[Worker], bytes_per_token: float, settings: ShardingSettings
) -> list[Part]:
    whole = Part(0, units.count)
    if units.embeds:
        return cut_inputs(units.prompt_tokens(whole, bytes_per_token), workers, settings)
    each = facts.max_output_tokens // units.choices
    if units.prompts == 1 and not choices_worth_it(facts.prompt_tokens, each, workers):
        return [whole]
    parts = cut_choices(units.prompts, units.choices, settings)
    # Parts with several texts could not be continued elsewhere: such a stream stays with one machine.
    return [whole] if units.streaming and len(parts) < units.count else parts
