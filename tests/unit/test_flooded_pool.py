"""A user with hundreds of requests at once beside one with a single one: what the second waits, in virtual time."""

from __future__ import annotations

import pytest
from tests.support.flooded.machine import Request
from tests.support.flooded.pool import FloodedPool

EVERY = [0, 1, 2]


def worst_s(requests: list[Request]) -> float:
    """The longest time to the first token."""
    return max(request.first_token_s for request in requests)


def alone_s() -> float:
    pool = FloodedPool()
    requests = pool.light(20)
    pool.run()
    return worst_s(requests)


def beside_a_flood(
    count: int,
    gateways: list[int],
    slowness: float = 1.0,
    leader: int = 0,
    fair: bool = True,
    deaf_s: float = 0.0,
) -> tuple[list[Request], FloodedPool]:
    """The light user was heard before; its requests go through the last gateway."""
    pool = FloodedPool(slowness, leader, fair)
    pool.light(3)
    pool.run()
    pool.deaf_until_s = pool.clock.now_s + deaf_s
    pool.flood(count, gateways)
    requests = pool.light()
    pool.run()
    return requests, pool


def decided_alone(pool: FloodedPool) -> int:
    return sum(gateway.decided_alone for gateway in pool.gateways)


@pytest.mark.parametrize(("gateways", "leader"), [([0], 0), ([0], 2), (EVERY, 1)])
def test_a_flood_is_hardly_noticed(gateways: list[int], leader: int) -> None:
    requests, pool = beside_a_flood(300, gateways, leader=leader)
    assert len(requests) > 25
    assert worst_s(requests[2:]) <= 1.5 * alone_s(), "every prompt of the flood has a step of the engine to itself"
    assert worst_s(requests) <= 2.0 * alone_s(), "the first two find loops that take in the flood"
    assert max(machine.waiting_most for machine in pool.machines) == 0, "a flood waits at the leader, nowhere else"
    assert decided_alone(pool) == 0


def test_a_gateway_that_a_flood_comes_through_begins_a_few_at_a_time() -> None:
    """On machines ten times as slow: else every loop is late for everybody."""
    fair, _ = beside_a_flood(600, EVERY, slowness=10.0)
    at_once, _ = beside_a_flood(600, EVERY, slowness=10.0, fair=False)
    assert worst_s(fair) <= 0.7 * worst_s(at_once)


def test_a_leader_that_answers_late_does_not_let_the_flood_fill_the_machines() -> None:
    """Gateways decide alone then; without a pace, a single request stands behind the flood's at a machine."""
    paced, pool = beside_a_flood(300, EVERY, deaf_s=2.0)
    assert decided_alone(pool) > 100
    assert max(machine.waiting_most for machine in pool.machines) == 0
    assert worst_s(paced) <= 1.5, "the acknowledgement waited for is in it"
    unpaced, pool = beside_a_flood(300, EVERY, deaf_s=2.0, fair=False)
    assert max(machine.waiting_most for machine in pool.machines) > 30
    assert worst_s(unpaced) > 5.0


@pytest.mark.parametrize("speeds", [(1.0, 0.5, 0.25), (1.0, 1.0, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("flood_prompt", [1000, 3500])
def test_a_flood_of_long_prompts_is_hardly_noticed(speeds: tuple[float, ...], flood_prompt: int) -> None:
    """One machine is kept for the light user, but for what it can take while that user waits for an answer."""
    pool = FloodedPool(speeds=speeds)
    pool.light(3)
    pool.run()
    pool.flood(60_000 // flood_prompt, range(len(speeds)), flood_prompt)
    requests = pool.light()
    pool.run()
    assert len(requests) > 10
    assert worst_s(requests[1:]) <= 1.5 * alone_s(), "the first was sent in the moment of the flood"
    assert all(machine.given["heavy"] for machine in pool.machines), "none is left to the light user alone"
