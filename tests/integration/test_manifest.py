"""From Bungie's manifest to the tables: every way in which it arrives broken, or not at all."""

import os
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from raidhub_dagster.bungie.client import BungieClient
from raidhub_dagster.bungie.protocol import Endpoints
from raidhub_dagster.errors import PermanentError, TransientError
from raidhub_dagster.manifest import files, load, state, versions
from raidhub_dagster.manifest.database import ITEMS, UnfitError
from raidhub_dagster.manifest.index import Version
from raidhub_dagster.manifest.load import FEATS, TARGETS, WEAPONS, Loaded, Target
from simulator import manifest as simulated
from simulator.manifest import NEW_RAID_HASH, NEW_WEAPON
from simulator.world import FEATS as FEATS_OF_WORLD
from tests.support.analytics import Analytics
from tests.support.bungie import Bungie
from tests.support.database import Database
from tests.support.manifests import make_tables, make_weapon


class Athena:
    """The steps of the manifest's job, with a folder of their own."""

    def __init__(self, bungie: Bungie, database: Database, folder: Path) -> None:
        self.bungie, self.database, self.folder = bungie, database, folder
        self.publish()

    def publish(self, **body: Any) -> None:
        """Another manifest; calm() does not undo it, so each test begins with a new one."""
        self.bungie.ask("/sim/manifest", **{"hidden": 0, **body})

    def client(self) -> BungieClient:
        endpoints = Endpoints(self.bungie.address, self.bungie.address)
        return BungieClient(endpoints, "key", "test", sleep=lambda _: None)

    def choose(self, **more: Any) -> Version:
        return versions.choose(self.database.connection, self.client, self.folder, **more)

    def bring(self, **more: Any) -> versions.Brought:
        return versions.bring(self.database.connection, self.client, self.folder, **more)

    def load(self, target: Target = WEAPONS, **more: Any) -> Loaded:
        return load.load_target(self.database.connection, self.folder, target, **more)

    def run(self) -> list[Loaded]:
        """All steps in their order."""
        self.choose()
        self.bring()
        return [self.load(target) for target in TARGETS]

    def late(self) -> list[str]:
        wanted = state.read_wanted(self.database.connection)
        assert wanted is not None
        return load.late_loads(self.database.connection, wanted.name)

    def weapons(self) -> dict[int, tuple[Any, ...]]:
        rows = self.database.rows("SELECT * FROM definitions.weapon_definition")
        return {hash_: tuple(row) for hash_, *row in rows}

    def contents(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def put(self, name: str, tables: simulated.Tables) -> None:
        """A manifest of the test's own becomes the current one."""
        self.folder.mkdir(exist_ok=True)
        path = self.folder / name
        path.write_bytes(simulated.database(tables))
        files.switch(path)


@pytest.fixture
def athena(bungie: Bungie, database: Database, tmp_path: Path) -> Iterator[Athena]:
    yield Athena(bungie, database, tmp_path / "manifest")
    bungie.ask("/sim/manifest", hidden=0)


# --- the usual way --------------------------------------------------------------------------------


def test_loads_what_the_simulator_publishes(athena: Athena) -> None:
    weapons, classes, feats = athena.run()
    world = athena.bungie.world
    stored = athena.weapons()
    assert set(world.weapons) < set(stored)
    assert {row[4] for row in stored.values()} == {"Kinetic", "Energy", "Power", "Unknown"}
    assert (weapons.inserted, weapons.rows) == (len(stored), len(stored))
    assert (weapons.found.bad, weapons.found.unknown) == ([], {})
    assert (classes.rows, classes.unchanged, classes.updated) == (3, 3, 0)  # seeded already
    assert (feats.rows, feats.found.bad) == (13, [])
    skulls = athena.database.rows(
        "SELECT skull_hash, name_short, description_short, modifier_power_contribution"
        " FROM definitions.activity_feat_definition ORDER BY hash LIMIT 1"
    )
    assert skulls == [(FEATS_OF_WORLD[0], "Feat 1", "Trick 1", 0)]
    assert athena.late() == ["clickhouse"]


def test_an_unchanged_version_is_left_alone(athena: Athena) -> None:
    """Every tick within the release hours looks; only a new version may cost anything."""
    athena.run()
    asked = athena.bungie.requests_so_far()
    athena.choose()
    brought = athena.bring()
    again = [athena.load(target) for target in TARGETS]
    assert (brought.is_unchanged, brought.zip_bytes) == (True, 0)
    assert [each.is_unchanged for each in again] == [True] * 3
    assert [each.rows for each in again][1:] == [3, 13]
    assert athena.bungie.requests_so_far() == asked + 1


def test_force_does_all_of_it_again(athena: Athena) -> None:
    athena.run()
    athena.database.rows("UPDATE definitions.weapon_definition SET name = 'wrong'")
    brought = athena.bring(force=True)
    loaded = athena.load(force=True)
    assert brought.zip_bytes > 0
    assert (loaded.updated, loaded.is_unchanged) == (loaded.rows - 1, False)
    wrong = {hash_ for hash_, row in athena.weapons().items() if row[0] == "wrong"}
    assert wrong == loaded.found.redacted  # of which the manifest knows no better


def test_a_new_version_writes_only_what_differs(athena: Athena) -> None:
    athena.run()
    gone = next(iter(athena.bungie.world.weapons))
    athena.database.rows(
        "UPDATE definitions.weapon_definition SET name = 'old' WHERE hash = %s", gone
    )
    athena.publish(flaws=["new_values"])
    weapons, _, _ = athena.run()
    assert (weapons.inserted, weapons.updated, weapons.vanished) == (1, 1, 0)
    assert athena.weapons()[NEW_WEAPON][2:] == ("Unknown",) * 5
    assert weapons.found.unknown == {
        ("itemSubType", "77"): [NEW_WEAPON],
        ("defaultDamageType", "8"): [NEW_WEAPON],
        ("equipmentSlotTypeHash", "1"): [NEW_WEAPON],
        ("ammoType", "9"): [NEW_WEAPON],
        ("tierTypeName", "'Mythic'"): [NEW_WEAPON],
    }


def test_rows_that_vanished_stay(athena: Athena) -> None:
    """Reports of years ago name weapons that left the game."""
    athena.run()
    athena.database.rows(
        "INSERT INTO definitions.weapon_definition VALUES (5, 'Old', '', 'x', 'x', 'x', 'x', 'x')"
    )
    athena.publish()
    weapons, _, _ = athena.run()
    assert (weapons.vanished, weapons.rows) == (1, len(athena.weapons()))
    assert 5 in athena.weapons()


def test_one_bad_record_does_not_hold_up_the_others(athena: Athena) -> None:
    athena.publish(flaws=["bad_records"])
    weapons, _, _ = athena.run()
    assert sorted(bad.hash for bad in weapons.found.bad) == [11, 12, 13, 14, 15, 16, 17]
    assert athena.weapons()[18][0] == "Null"
    assert set(athena.bungie.world.weapons) < set(athena.weapons())


def test_what_is_redacted_is_not_forgotten(athena: Athena) -> None:
    """Bungie hides records again now and then, and the site would lose every name."""
    athena.run()
    before = athena.weapons()
    athena.publish(flaws=["all_redacted"])
    weapons, _, _ = athena.run()
    assert athena.weapons() == before
    assert len(weapons.found.redacted) == len(before)


def test_a_manifest_of_no_use_changes_nothing(athena: Athena) -> None:
    """When Bungie renames a field, every record is bad: that must not pass for a load."""
    athena.run()
    athena.put("renamed.content", make_tables([{"hash": 5, "kind": 3}]))
    with pytest.raises(UnfitError, match="no record for weapon_definition is usable"):
        athena.load()
    done = state.read_done(athena.database.connection, WEAPONS.table)
    assert done is not None
    assert done.version != "renamed.content"


def test_a_new_raid_brings_its_feats_at_the_next_load(athena: Athena) -> None:
    """The feats are those of the activities that we know: the same manifest may give more."""
    athena.run()
    assert athena.late() == ["clickhouse"]
    athena.database.rows(
        "INSERT INTO definitions.activity_version (hash, activity_id, version_id) VALUES (5, 11, 1)"
    )
    assert athena.late() == [FEATS.table, "clickhouse"]
    assert not athena.load(FEATS).is_unchanged
    assert athena.late() == ["clickhouse"]


def test_an_upgrade_that_knows_more_values_loads_again(athena: Athena) -> None:
    athena.run()
    wiser = Target(WEAPONS.table, WEAPONS.read, code="with element 8")
    assert not athena.load(wiser).is_unchanged
    assert athena.late() == [WEAPONS.table, "clickhouse"]


# --- versions that come and go --------------------------------------------------------------------


def test_a_version_that_goes_back_needs_no_download(athena: Athena) -> None:
    athena.publish(revision=101)
    athena.run()
    first = state.read_wanted(athena.database.connection)
    athena.publish(revision=102, flaws=["new_values"])
    athena.run()
    athena.publish(revision=101)
    assert athena.choose() == first
    brought = athena.bring()
    assert (brought.zip_bytes, brought.is_unchanged) == (0, False)
    weapons = athena.load()
    assert (weapons.vanished, weapons.updated) == (1, 0)
    assert NEW_WEAPON in athena.weapons()


def test_three_old_files_are_kept(athena: Athena) -> None:
    names = []
    for _ in range(6):
        athena.publish()
        names.append(athena.choose().name)
        athena.bring()
    assert athena.contents() == sorted([*names[-4:], "current"])
    assert (athena.folder / "current").readlink() == Path(names[-1])


def test_the_current_file_is_never_pruned(athena: Athena) -> None:
    """Its time may be older than that of files which failed their checks later."""
    athena.folder.mkdir()
    for n in range(6):
        (athena.folder / f"{n}.content").write_bytes(b"")
        os.utime(athena.folder / f"{n}.content", (n, n))
    (athena.folder / "current").symlink_to("0.content")
    assert files.prune(athena.folder) == ["2.content", "1.content"]
    assert files.current(athena.folder) == athena.folder / "0.content"


def test_disk_takes_the_newest_file_and_asks_nobody(athena: Athena) -> None:
    athena.run()
    asked = athena.bungie.requests_so_far()
    path = athena.folder / "by_hand.content"
    path.write_bytes((athena.folder / "current").read_bytes())
    os.utime(path, (time.time() + 60, time.time() + 60))
    assert athena.choose(disk=True).name == "by_hand.content"
    assert athena.bring().path == path
    assert not athena.load().is_unchanged
    assert athena.bungie.requests_so_far() == asked


def test_disk_without_a_file_says_so(athena: Athena) -> None:
    with pytest.raises(PermanentError, match="no manifest lies in"):
        athena.choose(disk=True)


def test_steps_out_of_order_say_what_is_missing(athena: Athena) -> None:
    with pytest.raises(PermanentError, match="materialize manifest_version first"):
        athena.bring()
    with pytest.raises(PermanentError, match="passed its checks"):
        athena.load()
    with pytest.raises(PermanentError, match="passed its checks"):
        load.find_unknown_raids(athena.database.connection, athena.folder)


# --- bad files ------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_yet_is_asked_for_by_other_addresses(athena: Athena) -> None:
    athena.publish(hidden=3)
    athena.choose()
    assert athena.bring().zip_bytes > 0


def test_half_a_file_that_the_edge_remembers_is_asked_for_past_it(athena: Athena) -> None:
    athena.publish(flaws=["half_at_edge"])
    athena.choose()
    assert athena.bring().zip_bytes > 0


def test_servers_that_disagree_give_one_version_or_the_other(athena: Athena) -> None:
    """While a version rolls out the answers alternate; both files are there."""
    athena.publish(unsettled=True)
    seen = {(athena.choose().name, athena.bring().version.name) for _ in range(4)}
    assert len(seen) == 2
    assert all(chosen == brought for chosen, brought in seen)


@pytest.mark.parametrize(
    ("flaw", "error", "said"),
    [
        ("truncated", TransientError, "no sound zip"),
        ("page", TransientError, "Http200"),
        ("corrupt", UnfitError, "malformed"),
        ("missing_table", UnfitError, "lacks DestinyActivitySelectableSkullCollectionDefinition"),
        ("shrunk", UnfitError, "more than 20 % apart"),
    ],
)
def test_a_bad_file_leaves_everything_as_it_was(
    athena: Athena, flaw: str, error: type[Exception], said: str
) -> None:
    """The last good manifest stays, and the next try begins from nothing half done."""
    athena.run()
    before = athena.weapons()
    current = files.current(athena.folder)
    athena.publish(flaws=[flaw])
    athena.choose()
    with pytest.raises(error, match=said):
        athena.bring()
    assert files.current(athena.folder) == current
    assert not [name for name in athena.contents() if name.endswith(".part")]
    assert athena.load().is_unchanged
    assert athena.weapons() == before
    assert WEAPONS.table in athena.late()


def test_a_file_that_failed_its_checks_is_not_downloaded_each_time(athena: Athena) -> None:
    """100 MB at every tick would not make it any better."""
    athena.run()
    athena.publish(flaws=["shrunk"])
    athena.choose()
    with pytest.raises(UnfitError):
        athena.bring()
    brought = athena.bring(most_change_percent=60)
    assert brought.zip_bytes == 0
    assert athena.load().version == brought.version.name
    assert brought.rows[ITEMS] < 400


@pytest.mark.parametrize("members", [0, 2])
def test_a_zip_holds_one_file(members: int, tmp_path: Path) -> None:
    packed, target = tmp_path / "x.zip", tmp_path / "x"
    with zipfile.ZipFile(packed, "w") as archive:
        for n in range(members):
            archive.writestr(str(n), b"")
    with pytest.raises(zipfile.BadZipFile, match=f"{members} files"):
        files._unpack(packed, target)


def test_a_zip_bomb_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MOST_DATABASE_BYTES", 3 << 20)
    packed = tmp_path / "x.zip"
    packed.write_bytes(simulated.zipped(bytes(20 << 20), "x"))
    with pytest.raises(PermanentError, match="opens to more than"):
        files._unpack(packed, tmp_path / "x")
    assert (tmp_path / "x").stat().st_size < 5 << 20


def test_what_a_killed_run_left_is_cleared(athena: Athena) -> None:
    athena.folder.mkdir()
    for name in ("a.content.zip.part", "a.content.db.part"):
        (athena.folder / name).write_bytes(b"half")
    (athena.folder / "current.part").symlink_to("nowhere")
    athena.run()
    assert len(athena.contents()) == 2  # the file and the link to it


# --- the tables -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.table)
def test_a_version_counts_as_loaded_only_with_its_rows(athena: Athena, target: Target) -> None:
    """A load that dies before its commit leaves the table, and is tried again."""
    athena.choose()
    athena.bring()
    athena.database.rows(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE 'refused'; END $$"
    )
    athena.database.rows(
        "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE ON streaming.api_state"
        " DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    athena.database.rows(f"TRUNCATE definitions.{target.table} CASCADE")
    with pytest.raises(psycopg2.errors.RaiseException):
        athena.load(target)
    assert athena.database.rows(f"SELECT count(*) FROM definitions.{target.table}") == [(0,)]
    assert target.table in athena.late()
    athena.database.rows("DROP TRIGGER refuse ON streaming.api_state")
    assert athena.load(target).inserted > 0
    assert target.table not in athena.late()


def test_a_state_of_another_release_counts_as_never_loaded(athena: Athena) -> None:
    athena.run()
    athena.database.rows("""UPDATE streaming.api_state SET value = '["old"]'""")
    assert state.read_wanted(athena.database.connection) is None
    assert not athena.load().is_unchanged


def test_raids_that_nobody_defined_are_reported(athena: Athena) -> None:
    athena.publish(flaws=["new_raid"])
    athena.run()
    athena.database.rows(
        "INSERT INTO streaming.missed_pgcr (instance_id, state, reason, source, hash) VALUES"
        " (1, 'unknown_hash', 'r', 'hermes', %s), (2, 'resolved', 'r', 'hermes', %s)",
        *(NEW_RAID_HASH,) * 2,
    )
    athena.database.rows(
        "INSERT INTO definitions.activity_version (hash, activity_id, version_id) VALUES (5, 11, 1)"
    )
    found = load.find_unknown_raids(athena.database.connection, athena.folder)
    assert found.rows == [{"hash": NEW_RAID_HASH, "name": "The Newest Raid", "parked_reports": 1}]
    assert (found.parked_reports, found.known, found.not_in_manifest) == (1, 91, [5])


def test_a_damaged_file_is_told_while_it_is_read(athena: Athena) -> None:
    """The disk may fail after the checks."""
    athena.run()
    path = files.current(athena.folder)
    assert path is not None
    path.write_bytes(path.read_bytes()[:8192])
    with pytest.raises(UnfitError, match=path.name):
        athena.load(force=True)


# --- ClickHouse -----------------------------------------------------------------------------------


def test_copies_follow_and_are_late_until_they_did(analytics: Analytics, tmp_path: Path) -> None:
    connection = analytics.postgres
    path = tmp_path / "a.content"
    path.write_bytes(simulated.database(make_tables([make_weapon()])))
    files.switch(path)
    load.load_target(connection, tmp_path, WEAPONS)
    assert "clickhouse" in load.late_loads(connection, "a.content")
    load.copy_definitions(connection, analytics.clickhouse)
    assert "clickhouse" not in load.late_loads(connection, "a.content")
    assert analytics.select("SELECT name, slot FROM weapon_definition") == [
        ("Ace of Spades", "Kinetic")
    ]
