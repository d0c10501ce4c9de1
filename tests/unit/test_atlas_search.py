"""The search for the block behind a hole, and everything that must not pass for one."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streaming.atlas.search import DISTANCES, Search

BASE = 16_800_000_000
FAR = 10**11


def run(exists: Callable[[int], bool], *, turn: int = 0, ceiling: int = FAR) -> Search:
    """A search to its end; answers come in any order."""
    search = Search(BASE, ceiling, turn)
    rng = Random(1)
    while not search.is_over:
        ids = search.next_ids()
        assert ids, "nothing is asked and nothing is over"
        rng.shuffle(ids)
        for instance_id in ids:
            search.answered(instance_id, exists(instance_id))
    return search


def test_looks_a_thousand_to_five_million_ids_ahead() -> None:
    first = Search(BASE, FAR).next_ids()
    assert {i - BASE for i in first} == {d + n for d in DISTANCES for n in range(3)}
    assert (DISTANCES[0], DISTANCES[-1]) == (1000, 5_000_000)


def test_a_silent_head_is_no_gap() -> None:
    search = run(lambda _: False)
    assert (search.found, search.asked) == (None, 42)


@given(hole=st.integers(1, 2_500_000), turn=st.integers(0, 20))
def test_finds_the_first_id_behind_a_hole(hole: int, turn: int) -> None:
    assert run(lambda i: i >= BASE + hole, turn=turn).found == BASE + hole


def test_holes_inside_the_block_move_its_edge_at_most_a_little() -> None:
    """One id in a hundred is missing: what is left out by it is swept with the gap."""
    rng = Random(3)
    missing = {BASE + 700_000 + rng.randrange(1_000_000) for _ in range(10_000)}
    found = run(lambda i: i >= BASE + 700_000 and i not in missing).found
    assert found is not None
    assert 0 <= found - BASE - 700_000 < 100


def test_single_ids_that_came_early_are_no_block() -> None:
    """Ids are not strictly in the order of publication; jumping to one would skip what comes."""
    early = {BASE + d for d in DISTANCES}
    assert run(lambda i: i in early).found is None


def test_a_block_in_the_middle_of_the_hole_is_not_jumped_over() -> None:
    island = range(BASE + 2_300_000, BASE + 2_600_000)  # no distance of the first turn lies in it
    found = run(lambda i: i in island or i >= BASE + 3_900_000).found
    assert found == island[0]


def test_a_flood_during_the_search_is_no_gap() -> None:
    """The far probes were asked before it, the near ones after it."""
    search = Search(BASE, FAR)
    asked = search.next_ids()
    for instance_id in asked:
        search.answered(instance_id, instance_id >= BASE + 64_000)
    while not search.is_over:
        for instance_id in search.next_ids():
            search.answered(instance_id, True)
    assert search.found is not None
    assert search.found - BASE < 20_000


@pytest.mark.parametrize("behind", [500_000, 1_400_000, 2_060_000, 4_200_000])
def test_a_young_block_behind_a_long_hole_is_found_within_a_few_turns(behind: int) -> None:
    """Doubling distances alone step over it until it is as long as the hole, which takes hours."""
    per_turn = 37 * 300  # published between two searches
    for turn in range(1, 10):
        block = range(BASE + behind, BASE + behind + turn * per_turn)
        found = run(block.__contains__, turn=turn).found
        if found is not None:
            assert found == block[0]
            return
    pytest.fail("not found within 45 minutes")


def test_never_asks_beyond_the_ceiling() -> None:
    search = run(lambda _: False, ceiling=BASE + 3000)
    assert search.asked == 6
    assert run(lambda _: True, ceiling=BASE + 10).found is None


def test_an_answer_that_tells_nothing_is_asked_again_but_not_for_ever() -> None:
    search = Search(BASE, FAR)
    asked = 0
    while not search.is_over:
        for instance_id in search.next_ids():
            asked += 1
            search.answered(instance_id, None)
    assert search.found is None
    assert asked < 100


def test_an_answer_after_the_end_is_ignored() -> None:
    search = run(lambda _: False)
    search.answered(BASE + 1000, True)
    assert search.found is None
