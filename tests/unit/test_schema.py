"""The two steps of a rollout: which migrations each takes, and what comes out of turn."""

from pathlib import Path

import pytest

from raidhub_dagster.errors import PermanentError
from raidhub_dagster.storage.schema import Phase, due, needed, phase_of

PRE_1, POST_2, PRE_3, POST_4 = "0001_pre_a", "0002_post_b", "0003_pre_c", "0004_post_d"


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        (PRE_1, Phase.PRE),
        (POST_2, Phase.POST),
        ("0008_create_weapons", Phase.PRE),  # ClickHouse's have no phase unless they take away
        ("0009_post_drop_weapons", Phase.POST),
        ("0010_create_post_office", Phase.PRE),
    ],
)
def test_a_name_tells_its_phase(name: str, phase: Phase) -> None:
    assert phase_of(name) is phase


@pytest.mark.parametrize(
    ("pending", "phase", "is_empty", "chosen"),
    [
        ([PRE_1, POST_2, PRE_3], None, True, [PRE_1, POST_2, PRE_3]),
        ([POST_2, PRE_3], None, False, [POST_2, PRE_3]),
        ([PRE_3, POST_4], Phase.PRE, False, [PRE_3]),
        ([POST_4], Phase.PRE, False, []),
        ([], Phase.PRE, False, []),
        ([POST_4], Phase.POST, False, [POST_4]),
        ([PRE_3], Phase.POST, False, []),
        # A step forgotten by the rollout before: it can be made up for.
        ([POST_2, PRE_3, POST_4], Phase.POST, False, [POST_2]),
        # No old code reads an empty database.
        ([PRE_1, POST_2, PRE_3], Phase.PRE, True, [PRE_1, POST_2, PRE_3]),
    ],
)
def test_a_step_takes_its_own(
    pending: list[str], phase: Phase | None, is_empty: bool, chosen: list[str]
) -> None:
    assert due(pending, phase, is_empty=is_empty) == chosen


@pytest.mark.parametrize(
    ("pending", "phase", "told"),
    [
        ([POST_2, PRE_3], Phase.PRE, rf"^{POST_2} comes before {PRE_3} .*migrate --post"),
        ([PRE_1, POST_2, PRE_3], Phase.PRE, rf"^{POST_2} comes before {PRE_3} "),
        ([PRE_3, POST_4], Phase.POST, rf"^{PRE_3} comes before {POST_4} .*migrate --pre"),
    ],
)
def test_what_is_out_of_turn_is_refused(pending: list[str], phase: Phase, told: str) -> None:
    """A skipped release would run its migrations in an order that nobody ever tested."""
    with pytest.raises(PermanentError, match=told):
        due(pending, phase, is_empty=False)


def test_code_starts_without_what_only_takes_away(tmp_path: Path) -> None:
    """It runs before its own last step, else a rollout would never begin."""
    for name in (PRE_1, POST_2, PRE_3):
        (tmp_path / f"{name}.sql").touch()
    assert needed(tmp_path) == (PRE_1, PRE_3)
