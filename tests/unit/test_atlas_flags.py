"""Flags of atlas that depend on each other."""

from typing import Any

import pytest

from streaming.atlas.flags import FlagError, Flags, settle
from streaming.atlas.scaling import Bounds

GIVEN: dict[str, Any] = {
    "workers": None,
    "least": None,
    "most": 0,
    "target": -1,
    "buffer": 10_000,
    "dev": False,
    "dev_skip": None,
}


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({}, Flags(25, Bounds(5, 250), None, 10_000, 1)),
        ({"buffer": -1}, Flags(25, Bounds(5, 250), None, 10_000, 1)),
        ({"target": 17, "buffer": 0}, Flags(25, Bounds(5, 250), 17, 0, 1)),
        ({"workers": 3}, Flags(3, Bounds(3, 250), None, 10_000, 1)),
        ({"least": 40}, Flags(40, Bounds(40, 250), None, 10_000, 1)),
        ({"most": 10}, Flags(10, Bounds(5, 10), None, 10_000, 1)),
        ({"most": 2}, Flags(2, Bounds(2, 2), None, 10_000, 1)),
        ({"workers": 400, "most": 400}, Flags(400, Bounds(5, 400), None, 10_000, 1)),
        ({"dev": True, "buffer": -1}, Flags(8, Bounds(5, 8), None, 100, 5)),
        ({"dev": True, "dev_skip": 0, "most": 9}, Flags(9, Bounds(5, 9), None, 10_000, 1)),
    ],
)
def test_settles(given: dict[str, Any], flags: Flags) -> None:
    assert settle(**GIVEN | given) == flags


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"workers": 251}, "--workers"),
        ({"workers": 9, "dev": True}, "--workers"),
        ({"workers": 4, "least": 5}, "--workers"),
        ({"least": 11, "most": 10}, "--min-workers"),
        ({"dev_skip": 4}, "--dev-skip"),
        ({"target": 0}, "--target"),
    ],
)
def test_names_the_flag_to_change(given: dict[str, Any], flag: str) -> None:
    with pytest.raises(FlagError) as raised:
        settle(**GIVEN | given)
    assert raised.value.flag == flag
