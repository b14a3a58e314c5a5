"""The parts of one request and the leader's own scheduler, in virtual time: who takes what, and how long it takes."""

from __future__ import annotations

import heapq
import random
from dataclasses import replace

import pytest
from tests.support.scheduling import MODEL, Leader, ask, member, model_load, node, updated

from covey_mesh.core.asking import Answer, Ask, Outcome
from covey_mesh.core.facts import Task
from covey_mesh.core.names import NodeId
from covey_scheduler.core.sharding import Part, ShardingSettings, cut_inputs, in_flight_limit, workers_of

FASTEST = 10_000.0
CONTEXT = 512


class Office:
    """Machines of the given relative speeds with an embedding model, each of which computes parts in order."""

    def __init__(self, speeds: tuple[float, ...], believed: tuple[float, ...] | None = None) -> None:
        self.speeds = {node(i): FASTEST * speed for i, speed in enumerate(speeds, 2)}
        shown = dict(zip(self.speeds, believed or speeds, strict=True))
        self.members = [
            member(
                node_id,
                model_load(
                    task=Task.EMBED, prefill_tokens_per_s=FASTEST * shown[node_id], decode_tokens_per_s=0.0,
                    kv_cache_tokens_total=0, kv_cache_tokens_free=0, max_context_tokens=CONTEXT, running_limit=64,
                ),
            )
            for node_id in self.speeds
        ]  # fmt: skip
        self.believed = {node_id: FASTEST * speed for node_id, speed in shown.items()}
        self.given: dict[NodeId, list[tuple[float, int]]] = {node_id: [] for node_id in self.speeds}
        self.leader = Leader(self.members)
        self.busy_until_s = dict.fromkeys(self.speeds, 0.0)
        self.tokens = dict.fromkeys(self.speeds, 0)

    def embed(self, tokens: list[int], user: str = "ada") -> float:
        """Seconds until the last part is done; machines report as often as real ones do."""
        began_s = self.leader.now_s
        settings = ShardingSettings()
        workers = workers_of(MODEL, self.members)
        parts = cut_inputs(tokens, workers, settings)
        limit = in_flight_limit(workers, False, settings)
        waiting, ends = list(enumerate(parts)), []
        open_parts = 0
        answers: list[Answer] = []
        while waiting or ends or open_parts:
            while waiting and open_parts < limit:
                number, part = waiting.pop(0)
                open_parts += 1
                answers += self.leader.ask(self._ask(number, part, tokens, user))
            for answer in answers:
                if answer.outcome is Outcome.ASSIGNED:
                    assert answer.node_id is not None
                    end_s = self._runs(answer.node_id, parts[int(answer.request_id)], tokens)
                    heapq.heappush(ends, (end_s, answer.request_id, answer.node_id))
            if not ends:
                answers = self.leader.tick(0.1)
                continue
            if ends[0][0] > self.leader.now_s + 0.1:
                answers = [*self.leader.tick(0.1), *self._reports()]
                continue
            self.leader.now_s = max(self.leader.now_s, ends[0][0])
            _, request_id, node_id = heapq.heappop(ends)
            open_parts -= 1
            answers = [*self.leader.report(request_id, node_id=node_id), *self._reports()]
        return self.leader.now_s - began_s

    def _ask(self, number: int, part: Part, tokens: list[int], user: str) -> Ask:
        total = sum(tokens[part.begin : part.end])
        longest = min(total, CONTEXT)
        return ask(str(number), prompt_tokens=total, longest_prompt_tokens=longest, max_output_tokens=0, user=user)

    def _reports(self) -> list[Answer]:
        """Every machine says what it has, and how fast it was at what it has done."""
        changed = []
        for old in self.members:
            left = [(end_s, work) for end_s, work in self.given[old.node_id] if end_s > self.leader.now_s]
            if len(left) < len(self.given[old.node_id]):
                self.believed[old.node_id] = self.speeds[old.node_id]
            self.given[old.node_id] = left
            (before,) = old.load.models
            load = replace(
                before,
                running_requests=len(left),
                queued_tokens=sum(work for _, work in left),
                queued_prompt_tokens=sum(work for _, work in left),
                prefill_tokens_per_s=self.believed[old.node_id],
            )
            changed.append(updated(old, load))
        self.members = changed
        return self.leader.see(*changed)

    def _runs(self, node_id: NodeId, part: Part, tokens: list[int]) -> float:
        work = sum(tokens[part.begin : part.end])
        self.tokens[node_id] += work
        from_s = max(self.leader.now_s, self.busy_until_s[node_id])
        self.busy_until_s[node_id] = from_s + work / self.speeds[node_id]
        self.given[node_id].append((self.busy_until_s[node_id], work))
        return self.busy_until_s[node_id]


@pytest.mark.parametrize("speeds", [(1, 1, 0.5, 0.5), (1, 0.25), (1, 1, 1, 1), (1, 0.5, 0.25, 0.125, 0.125)])
def test_a_pool_is_as_fast_as_its_machines_together(speeds: tuple[float, ...]) -> None:
    office = Office(speeds)
    tokens = [22] * 10_000
    took_s = office.embed(tokens)
    alone_s = sum(tokens) / FASTEST
    print(f"{alone_s / took_s:.3f} of {sum(speeds):.3f}")
    assert alone_s / took_s > 0.95 * sum(speeds)
    for done, speed in zip(office.tokens.values(), speeds, strict=True):
        assert done == pytest.approx(sum(tokens) * speed / sum(speeds), rel=0.25)


@pytest.mark.parametrize("seed", range(20))
def test_inputs_of_all_lengths(seed: int) -> None:
    print(f"seed {seed}")
    dice = random.Random(seed)
    speeds = (1.0, *(dice.choice((1.0, 0.5, 0.25)) for _ in range(dice.randint(1, 6))))
    tokens = [dice.choice((3, 10, 30, 100, 500)) for _ in range(5000)]
    took_s = Office(speeds).embed(tokens)
    assert sum(tokens) / FASTEST / took_s > 0.9 * sum(speeds)


def test_a_machine_four_times_slower_than_believed_costs_a_quarter_and_not_all() -> None:
    office = Office((1, 1, 0.25), believed=(1, 1, 1))
    tokens = [22] * 10_000
    took_s = office.embed(tokens)
    assert sum(tokens) / FASTEST / took_s > 0.7 * 2.25, "equal thirds would last three times as long"


def test_parts_that_arrive_at_once_do_not_all_go_to_one_machine() -> None:
    """The machines' reports stay what they were before: idle."""
    office = Office((1, 1, 1, 1))
    placed = [
        answer.node_id
        for number in range(4)
        for answer in office.leader.ask(office._ask(number, Part(0, 10), [200] * 10, "ada"))
    ]
    assert sorted(map(str, placed)) == sorted(office.speeds)


def test_the_user_is_charged_for_every_input() -> None:
    office = Office((1, 1, 0.5, 0.5))
    tokens = [22] * 10_000
    office.embed(tokens, "ada")
    assert office.leader.scheduler._queues.counters(MODEL).of("ada") >= sum(tokens)


def test_inputs_need_not_fit_a_context_together() -> None:
    office = Office((1, 1))
    (answer,) = office.leader.ask(office._ask(0, Part(0, 1000), [22] * 1000, "ada"))
    assert answer.outcome is Outcome.ASSIGNED
    (refused,) = office.leader.ask(ask("long", prompt_tokens=22_000, max_output_tokens=0))
    assert refused.outcome is Outcome.NO_CANDIDATE
