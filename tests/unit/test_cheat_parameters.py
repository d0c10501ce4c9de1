"""The file of a version: read whole or refused, with the place of what is wrong."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from raidhub_dagster.cheat_detection.parameters import (
    DEFAULT_VERSION,
    FOLDER,
    Window,
    load_parameters,
    read_parameters,
)
from raidhub_dagster.errors import ConfigurationError

SHIPPED = FOLDER / "compat-2.2.0.yaml"
Change = Callable[[Any], Any]


def write(folder: Path, change: Change, name: str = SHIPPED.name) -> Path:
    """The shipped file with something changed."""
    document = yaml.safe_load(SHIPPED.read_bytes())
    change(document)
    path = folder / name
    path.write_text(yaml.safe_dump(document), "utf-8")
    return path


def put(*place: Any, value: Any) -> Change:
    """Sets the value at a path of keys."""

    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        document[place[-1]] = value

    return change


def drop(*place: Any) -> Change:
    def change(document: Any) -> None:
        for key in place[:-1]:
            document = document[key]
        del document[place[-1]]

    return change


def test_every_version_of_the_release_is_whole() -> None:
    """A file that cannot be read stops every check, so it stops the build."""
    versions = {path.stem for path in FOLDER.glob("*.yaml")}
    assert DEFAULT_VERSION in versions
    assert {load_parameters(version).version for version in versions} == versions


def test_what_was_read_is_what_stands_there() -> None:
    """Numbers of each kind, so that no name is read into another's place."""
    parameters = load_parameters()
    assert parameters.thresholds.instance_store == 0.05
    assert parameters.curves.participation.x0_per_player == -0.45
    assert parameters.rules.weapon_diversity.few_time == 1200
    assert parameters.activities[14].lowman.checkpoint[4][0].min_time == 300
    assert parameters.activities[102].duration_floor == {132: 420, 134: 900}
    assert parameters.activities[3].min_kills.checkpoint is None
    assert parameters.activities[15].record_curve is None
    (first, *_) = parameters.skip.windows
    assert first.begins == datetime(2023, 9, 15, 13, 54, tzinfo=UTC)
    assert [level for level, _ in parameters.levels.descending] == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("change", "where"),
    [
        # a typo is neither read over nor does it leave a rule at a default
        (put("curves", "grenade", value={"k": 1, "x0": 2}), "curves.grenade: Extra"),
        (put("rules", "speed", "max_body", value=6), "rules.speed.max_body: Extra"),
        (put("activities", 9, "record_curv", value=None), "activities.9.record_curv: Extra"),
        (put("weather", value=1), "weather: Extra"),
        # missing
        (drop("curves", "grenades"), "curves.grenades: Field required"),
        (drop("rules", "heavy", "rate_cap"), "rules.heavy.rate_cap: Field required"),
        (drop("activities", 9, "min_kills", "fresh"), "activities.9.min_kills.fresh: Field req"),
        (drop("version"), "version: Field required"),
        # of the wrong type
        (put("curves", "heavy", "k", value="steep"), "curves.heavy.k: Input should be a valid n"),
        (put("activities", 9, "bit", value=9.5), "activities.9.bit: Input should be a valid int"),
        (put("activities", value=[1]), "activities: Input should be a valid dict"),
        (put("activities", "nine", value={}), "activities.nine"),
        (put("curves", "heavy", value=None), "curves.heavy: Input should be"),
        # impossible
        (put("thresholds", "player_store", value=1.5), "thresholds.player_store: Input"),
        (put("curves", "heavy", "k", value=float("nan")), "curves.heavy.k: Input should be a fin"),
        (put("curves", "heavy", "x0", value=float("inf")), "curves.heavy.x0: Input should be a f"),
        (put("rules", "player", "full_weight_seconds", value=0), "full_weight_seconds: Input"),
        (put("activities", 9, "bit", value=63), "activities.9.bit: Input"),
        (put("activities", 9, "bit", value=8), "top: Value error, two activities have the same"),
        (put("schema", value=2), "schema: Input should be 1"),
        (put("version", value="Compat 2"), "version: String should match"),
        (put("version", value="compat-9.9"), "version: is compat-9.9, not the file's name"),
        # a record curve that is half of two forms, or whose first day has no logarithm
        (put("activities", 9, "record_curve", "constant", value=5), "activities.9.record_curve: "),
        (drop("activities", 9, "record_curve", "e"), "activities.9.record_curve: Value error"),
        (put("activities", 9, "record_curve", "c", value=0), "activities.9.record_curve: Value"),
        # lists out of order, twice the same team, a version that is no number
        (
            put("activities", 9, "lowman", "fresh", "any", value=[{"players": 2}, {"players": 1}]),
            r"activities.9.lowman: Value error, players of list any must ascend: \[2, 1\]",
        ),
        (
            put("activities", 9, "lowman", "fresh", 4, value=[{"players": 2}, {"players": 2}]),
            "players of list 4 must ascend",
        ),
        (
            put("activities", 9, "lowman", "fresh", "all", value=[{"players": 2}]),
            "activities.9.lowman.fresh.all",
        ),
        # windows
        (put("skip", "windows", 0, "from", value="2023-09-15T13:54:00"), "skip.windows.0: Value e"),
        (put("skip", "windows", 0, "to", value="2023-09-15T13:54:00Z"), "ends before it begins"),
        (put("skip", "windows", 0, "to", value="in autumn"), "skip.windows.0.to: Input should"),
        (drop("skip", "windows", 0, "to"), "skip.windows.0.to: Field required"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_place(
    tmp_path: Path, change: Change, where: str
) -> None:
    """A file of 190 lines: without the path one searches it all while nothing is checked."""
    with pytest.raises(ConfigurationError, match=where) as caught:
        read_parameters(write(tmp_path, change))
    assert str(caught.value).startswith("compat-2.2.0.yaml: ")


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Instead of one a run."""

    def change(document: Any) -> None:
        drop("version")(document)
        put("curves", "heavy", "k", value="steep")(document)

    with pytest.raises(ConfigurationError, match=r"version: .*; curves\.heavy\.k: "):
        read_parameters(write(tmp_path, change))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("  grenades: {", "  kills_per_minute: {", "'kills_per_minute' twice, line 29"),
        ("  8: {name: Deep", "  7: {name: Deep", r"7 twice, line \d+"),
    ],
)
def test_a_key_that_is_written_twice(tmp_path: Path, old: str, new: str, what: str) -> None:
    """YAML keeps the last without a word, and half a raid's table is gone."""
    path = tmp_path / SHIPPED.name
    text = SHIPPED.read_text("utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ConfigurationError, match=what):
        read_parameters(path)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"a: [1, 2", "expected"),
        (b"\xff\xfe\xff", "compat-2.2.0.yaml: "),
        (b"", "top: Input should be"),
        (b"- 1", "top: Input should be"),
        (b"version: !!python/object:os.system {}", "could not determine a constructor"),
        (b"? [a]\n: 1", "compat-2.2.0.yaml: "),
    ],
)
def test_what_is_no_file_of_parameters(tmp_path: Path, body: bytes, what: str) -> None:
    """Cut off, another encoding, empty, a list, code."""
    path = tmp_path / SHIPPED.name
    path.write_bytes(body)
    with pytest.raises(ConfigurationError, match=re.escape(what)):
        read_parameters(path)


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A folder by that name, or none."""
    with pytest.raises(ConfigurationError, match=r"^nothing-1\.yaml: .*No such file"):
        read_parameters(tmp_path / "nothing-1.yaml")
    (tmp_path / "folder-1.yaml").mkdir()
    with pytest.raises(ConfigurationError, match=r"^folder-1\.yaml: "):
        read_parameters(tmp_path / "folder-1.yaml")


@pytest.mark.parametrize("version", ["compat-0", "", "../errors", "/etc/passwd", "compat-*"])
def test_a_version_that_the_release_has_not(version: str) -> None:
    """A setting names it; the message has those there are."""
    with pytest.raises(ConfigurationError, match=r"there are .*compat-2\.2\.0"):
        load_parameters(version)


def test_parameters_cannot_be_changed() -> None:
    """They are shared by all threads of a process."""
    with pytest.raises(ValueError, match="frozen"):
        load_parameters().thresholds.player_store = 1  # type: ignore[misc]  # on purpose


def test_a_window_without_an_end_lasts() -> None:
    """`to: null`, and neither end belongs to it."""
    begins = datetime(2024, 1, 1, tzinfo=UTC)
    window = Window.model_validate({"from": begins, "to": None})
    assert window.contains(datetime(2999, 1, 1, tzinfo=UTC))
    assert not window.contains(begins)
    assert window.overlaps(begins, datetime(2024, 1, 2, tzinfo=UTC))
    assert not window.overlaps(datetime(2023, 1, 1, tzinfo=UTC), begins)


def based(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "test-1.yaml"
    path.write_text(f"schema: 1\nversion: test-1\n{text}", "utf-8")
    return path


def test_a_version_says_only_what_it_changes(tmp_path: Path) -> None:
    """Two files of 190 lines that differ in one number hide which."""
    path = based(
        tmp_path,
        "based_on: compat-2.2.0\nrules: {lowman: {too_few: 0.9}}\nskip: {windows: []}\n"
        "activities: {9: {min_kills: {fresh: 7}}}\n",
    )
    old, new = read_parameters(SHIPPED), read_parameters(path)
    assert new.rules.lowman.too_few == 0.9
    assert new.rules.lowman.outside_window == old.rules.lowman.outside_window
    assert new.skip.windows == ()
    assert (new.activities[9].min_kills.fresh, new.activities[9].min_kills.checkpoint) == (7, 40)
    assert new.activities[8] == old.activities[8]
    assert new.digest != old.digest


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("based_on: compat-9", "based_on: no version 'compat-9'"),
        ("based_on: ../secret", "based_on: no version '../secret'"),
        ("based_on: [a]", "based_on: no version"),
        ("based_on: compat-2.2.0\nrules: {lowman: {too_many: 1}}", "rules.lowman.too_many: Extra"),
        ("based_on: compat-2.2.0\nrules: 1", "rules: Input should be"),
    ],
)
def test_what_a_version_cannot_be_based_on(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"test-1.yaml: {what}")):
        read_parameters(based(tmp_path, text))
