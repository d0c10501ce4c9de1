"""Identity must not depend on the order in which sightings arrive."""

from datetime import timedelta
from functools import reduce
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from raidhub_dagster.storage.identity import Identity, Seen, merge
from tests.support.worlds import EPOCH


@st.composite
def _identities(draw: st.DrawFn, instance_id: int) -> Identity:
    seen = Seen(EPOCH + timedelta(seconds=draw(st.integers(0, 3))), instance_id)

    has_icon, has_name, has_pair = (draw(st.booleans()) for _ in range(3))
    return Identity(
        membership_type=draw(st.sampled_from([1, 3])),
        membership_type_seen=seen,
        icon_path=f"icon{instance_id}" if has_icon else None,
        icon_path_seen=seen if has_icon else None,
        display_name=f"name{instance_id}" if has_name else None,
        display_name_seen=seen if has_name else None,
        global_name=(f"global{instance_id}", "0001") if has_pair else None,
        global_name_seen=seen if has_pair else None,
    )


@given(st.tuples(*(_identities(n) for n in range(4))))
def test_merge_gives_the_same_in_every_order(sightings: tuple[Identity, ...]) -> None:
    merged = {reduce(merge, order) for order in permutations(sightings)}
    assert len(merged) == 1
    assert merge(merged.pop(), sightings[0]) == reduce(merge, sightings)


def test_newer_sighting_without_a_name_neither_erases_nor_blocks_older_ones() -> None:
    """One generation lost names whenever a report came without them."""
    old, middle, new = (Seen(EPOCH + timedelta(days=n), n) for n in range(3))
    nameless = Identity(membership_type=3, membership_type_seen=new)
    named = Identity(display_name="Ann", display_name_seen=old)
    renamed = Identity(display_name="Bob", display_name_seen=middle)
    assert merge(merge(nameless, named), renamed).display_name == "Bob"


def test_value_of_an_outside_writer_yields_to_a_sighting_and_survives_silence() -> None:
    outside = Identity(membership_type=2, display_name="Outside")
    seen = Seen(EPOCH, 1)
    merged = merge(outside, Identity(membership_type=3, membership_type_seen=seen))
    assert (merged.membership_type, merged.display_name) == (3, "Outside")
