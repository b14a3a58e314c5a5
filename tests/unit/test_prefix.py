"""Chained block hashes, and the index that forgets what the engine forgot."""

from __future__ import annotations

import pytest
from tests.support.scheduling import node

from covey_mesh.core.names import NodeId
from covey_scheduler.core.prefix import BLOCK_BYTES, BLOCKS_MAX, PENDING_MAX, PrefixIndex, prefix_hashes

LIFE = (1, 0)


def matched_blocks(
    known: PrefixIndex, node_id: NodeId, model: str, generation: tuple[int, int], hashes: tuple[int, ...]
) -> int:
    """As a decision asks: an engine of another generation is forgotten first, then the prompt is looked up."""
    known.held_blocks(node_id, model, generation)
    return max((blocks for blocks, machines in known.matches(model, hashes) if node_id in machines), default=0)


@pytest.mark.parametrize(
    ("size", "blocks"),
    [(0, 0), (511, 0), (512, 1), (1023, 1), (1024, 2), (512 * 128, 128), (512 * 129, 128), (5_000_000, 128)],
)
def test_full_blocks_only_and_bounded(size: int, blocks: int) -> None:
    assert len(prefix_hashes(b"x" * size)) == blocks


def test_equal_prefixes_and_only_those_have_equal_hashes() -> None:
    blocks = [bytes([i]) * BLOCK_BYTES for i in range(4)]
    one = prefix_hashes(b"".join(blocks))
    other = prefix_hashes(blocks[0] + blocks[1] + blocks[3] + blocks[3])
    assert one[:2] == other[:2]
    assert not set(one[2:]) & set(other[2:])
    assert all(0 <= each < 2**64 for each in one)
    assert prefix_hashes(blocks[1])[0] not in one, "a block's hash covers what stands before it"


def index() -> PrefixIndex:
    return PrefixIndex(blocks_max=8, blocks_total_max=20)


def test_longest_prefix_of_the_same_engine_and_life() -> None:
    known = index()
    known.add(node(1), "m", LIFE, (1, 2, 3), 0)
    assert matched_blocks(known, node(1), "m", LIFE, (1, 2, 9, 8)) == 2
    assert matched_blocks(known, node(1), "m", LIFE, (2, 3)) == 2
    assert matched_blocks(known, node(1), "other", LIFE, (1,)) == 0
    assert matched_blocks(known, node(2), "m", LIFE, (1,)) == 0
    assert matched_blocks(known, node(1), "m", (1, 1), (1,)) == 0, "the engine restarted"


def test_a_new_life_starts_empty() -> None:
    known = index()
    known.add(node(1), "m", LIFE, (1, 2, 3), 0)
    known.add(node(1), "m", (2, 0), (9,), 0)
    assert matched_blocks(known, node(1), "m", (2, 0), (1, 2, 3)) == 0
    assert len(known) == 1


def test_the_ends_of_old_prefixes_are_forgotten_first() -> None:
    known = index()
    known.add(node(1), "m", LIFE, (1, 2, 3, 4, 5), 0)
    known.add(node(1), "m", LIFE, (1, 2, 13, 14, 15), 0)
    assert len(known) == 8
    known.add(node(1), "m", LIFE, (1, 2, 23), 0)
    assert matched_blocks(known, node(1), "m", LIFE, (1, 2, 23)) == 3
    assert matched_blocks(known, node(1), "m", LIFE, (1, 2, 3, 4, 5)) == 4


def test_bounds_of_one_engine_and_of_all() -> None:
    known = index()
    known.add(node(1), "m", LIFE, tuple(range(BLOCKS_MAX * 2)), 4)
    assert len(known) == 4, "no more than the engine can hold"
    for number in range(2, 10):
        known.add(node(number), "m", LIFE, tuple(range(8)), 0)
        assert len(known) <= 20
    assert matched_blocks(known, node(1), "m", LIFE, (0, 1)) == 0
    assert matched_blocks(known, node(9), "m", LIFE, (0, 1)) == 2


def test_machines_that_left_are_forgotten() -> None:
    known = index()
    known.add(node(1), "m", LIFE, (1,), 0)
    known.add(node(2), "m", LIFE, (1,), 0)
    known.keep_only({node(2)})
    assert len(known) == 1
    assert matched_blocks(known, node(1), "m", LIFE, (1,)) == 0


def test_who_knows_how_much_deeper_rows_later() -> None:
    known = index()
    known.add(node(1), "m", LIFE, (1, 2, 3), 0)
    known.add(node(2), "m", LIFE, (1, 2), 0)
    known.add(node(3), "m", LIFE, (1,), 0)
    found = known.matches("m", (1, 2, 3, 4))
    assert [(blocks, sorted(holders)) for blocks, holders in found] == [
        (1, [node(1), node(2), node(3)]),
        (2, [node(1), node(2)]),
        (3, [node(1)]),
    ]
    assert known.matches("m", (9, 1)) == []
    assert known.matches("other", (1,)) == []


def test_the_cache_of_an_earlier_life_is_forgotten_when_it_is_counted() -> None:
    known = index()
    known.add(node(1), "m", LIFE, (1, 2, 3), 0)
    assert known.held_blocks(node(1), "m", LIFE) == 3
    assert known.held_blocks(node(1), "m", (1, 1)) == 0
    assert (len(known), known.matches("m", (1,))) == (0, [])


ENGINE = (node(1), "m")


def told(known: PrefixIndex, hashes: tuple[int, ...], hit: bool | None) -> None:
    known.ended(ENGINE, LIFE, known.add(*ENGINE, LIFE, hashes, 0), hit)


def held(known: PrefixIndex, *hashes: int) -> list[int]:
    return [each for each in hashes if matched_blocks(known, *ENGINE, LIFE, (each,))]


def test_what_an_engine_had_not_takes_all_older_things_along() -> None:
    known = index()
    for hashes in ((1, 2), (3,), (4,), (5,)):
        told(known, hashes, None)
    told(known, (5,), True)
    told(known, (3, 6), False)
    assert held(known, 1, 2, 3, 4, 5, 6) == [3, 4, 5, 6], "computed again, so 3 is there; 1 and 2 were used before it"
    assert len(known) == 4
    told(known, (7,), False)
    assert len(known) == 5, "nothing was believed of it"


def test_an_engine_that_never_told_of_a_hit_does_not_tell() -> None:
    known = index()
    told(known, (1,), None)
    told(known, (2,), None)
    told(known, (2,), False)
    assert held(known, 1, 2) == [1, 2]


def test_a_prompt_that_was_still_being_computed_is_no_miss() -> None:
    known = index()
    told(known, (1,), None)
    told(known, (1,), True)
    first = known.add(*ENGINE, LIFE, (2,), 0)
    second = known.add(*ENGINE, LIFE, (2,), 0)
    known.ended(ENGINE, LIFE, second, False)
    known.ended(ENGINE, LIFE, first, None)
    assert held(known, 1, 2) == [1, 2]
    told(known, (2,), False)
    assert held(known, 1, 2) == [2]


def test_the_end_of_a_prompt_of_another_life_says_nothing() -> None:
    known = index()
    told(known, (1,), True)
    late = known.add(*ENGINE, LIFE, (1,), 0)
    known.add(*ENGINE, (2, 0), (1,), 0)
    known.ended(ENGINE, LIFE, late, False)
    known.ended((node(9), "m"), LIFE, late, False)
    assert matched_blocks(known, *ENGINE, (2, 0), (1,)) == 1


def test_uses_that_never_end_are_bounded() -> None:
    known = PrefixIndex(blocks_max=8, blocks_total_max=20)
    for _ in range(PENDING_MAX + 10):
        use = known.add(*ENGINE, LIFE, (1,), 0)
    assert use.found == 0
    assert len(known._engines[ENGINE].pending) == PENDING_MAX


def evicting(evicted: int, held_blocks: int) -> PrefixIndex:
    known = PrefixIndex(blocks_max=8, blocks_total_max=20, tokens_per_block=100)
    known.add(*ENGINE, LIFE, (1, 2, 3, 4), 0)
    known.add(*ENGINE, LIFE, (5, 6), 0)
    known.evicted(ENGINE, LIFE, 1000, held_blocks)
    known.evicted(ENGINE, LIFE, 1000 + evicted, held_blocks)
    return known


@pytest.mark.parametrize(
    ("evicted", "held_blocks", "left"),
    [
        (0, 6, [1, 2, 3, 4, 5, 6]),
        (300, 3, [1, 5, 6]),  # all that it held was ours: the ends of what was used longest ago go first
        (300, 9, [1, 2, 5, 6]),  # half of it was
        (100_000, 0, []),
        (99, 6, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_what_an_engine_let_go_of_is_forgotten_in_proportion(evicted: int, held_blocks: int, left: list[int]) -> None:
    known = evicting(evicted, held_blocks)
    assert held(known, 1, 2, 3, 4, 5, 6) == left
    assert len(known) == len(left)


def test_what_an_engine_let_go_of_before_it_was_known_and_nonsense_say_nothing() -> None:
    known = evicting(0, 6)
    known.evicted(ENGINE, LIFE, 5, 6)
    known.evicted(ENGINE, (9, 9), 10**9, 6)
    known.evicted((node(7), "m"), LIFE, 10**9, 6)
    assert len(known) == 6
