"""What Bungie's settings say about its systems, in good and in odd shapes."""

import json
from typing import Any

import pytest

from raidhub_dagster.bungie import systems
from raidhub_dagster.errors import TransientError
from tests.support.samples import SAMPLES


def read(**named: Any) -> dict[str, bool]:
    return systems.read_systems(json.dumps({"systems": named, "environment": "live"}).encode())


def test_a_name_that_is_missing_counts_as_on_but_for_the_game_itself() -> None:
    """Bungie renames systems without a word; a missing name must not stop a topic for ever."""
    state = read(Activities={"enabled": False, "parameters": {}})
    assert state == dict.fromkeys(systems.KNOWN, True) | {"Activities": False, "Destiny2": False}


def test_nothing_runs_before_the_first_answer() -> None:
    assert systems.off({}, systems.REPORTS) == ["Destiny2", "Activities"]
    state = read(Destiny2={"enabled": True}, Groups={"enabled": False})
    assert systems.off(state, systems.REPORTS) == []
    assert systems.off(state, ("Clans", "Groups")) == ["Groups"]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"systems": []}', b'{"systems": {"A": 1}}', b"\xff"]
)
def test_another_shape_says_nothing_about_systems(body: bytes) -> None:
    with pytest.raises(TransientError):
        systems.read_systems(body)


def test_a_real_answer_is_read() -> None:
    path = SAMPLES.parent / "settings" / "common_settings_2015.json"
    if not path.exists():
        pytest.skip("the samples are not there")
    answer = json.loads(path.read_text("utf-8"))
    state = systems.read_systems(json.dumps(answer["Response"]).encode())
    assert state["Destiny2"] is False  # of 2015: the game did not exist
