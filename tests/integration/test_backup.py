"""Backups of both stores: what comes back is exact, and what cannot is refused in words.

The whole stack, destroyed and restored while it crawls, is tests/e2e/test_backup.py.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from psycopg2.extensions import cursor as Cursor  # noqa: N812  the driver's own class

from raidhub_dagster.backup import manifest as manifests
from raidhub_dagster.backup import postgres as pg_tools
from raidhub_dagster.backup.making import CLICKHOUSE, POSTGRES, make
from raidhub_dagster.backup.manifest import NAME, Manifest
from raidhub_dagster.backup.restoring import restore_all
from raidhub_dagster.commands.backup import backup as backup_command
from raidhub_dagster.errors import ConfigurationError, PermanentError
from raidhub_dagster.settings import Settings
from raidhub_dagster.storage import clickhouse as ch
from raidhub_dagster.storage import clickhouse_lookups
from raidhub_dagster.storage.migrations import HISTORY_DATABASE, prepare_history
from raidhub_dagster.storage.postgres import alone, connect, connected
from raidhub_dagster.storage.reconcile import Reopened, match_clickhouse, reopen
from raidhub_dagster.storage.verify import verify
from tests.conftest import make_settings, own_clickhouse, own_postgres
from tests.support.analytics import (
    HOUR,
    LONG_AGO,
    Analytics,
    DeathError,
    MortalClient,
    run,
    send_until_quiet,
)

# Blocks: one with a raid that was still in the queue (six published, six stored, but one of these
# came later, as a missed id), one complete, one with ids that hermes and the crawl gave up.
LEDGER = """
INSERT INTO streaming.crawl_cursor VALUES ('atlas', 100, 400, 1000, now());
INSERT INTO streaming.crawl_block
    (first_id, last_id, state, owner, lease_until, done_at, raids, non_raids, missed)
VALUES (100, 199, 'done', 'a', now(), now(), 6, 93, 1),
       (200, 299, 'done', 'a', now(), now(), 1, 99, 0),
       (300, 399, 'done', 'a', now(), now(), 1, 98, 1);
INSERT INTO streaming.missed_pgcr
    (instance_id, state, reason, source, next_attempt_at, closed_at)
VALUES (106, 'resolved', 'not_found', 'atlas', NULL, now()),
       (300, 'waiting', 'store_failed', 'hermes', NULL, NULL),
       (301, 'resolved', 'not_found', 'atlas', NULL, now()),
       (302, 'resolved', 'not_found', 'atlas', NULL, now() - interval '3 days');
UPDATE streaming.outbox SET sent_at = now() WHERE kind = 'message';
"""


# Nobody else's on the server of all tests.
DAGSTER_ROLE = "dagster_of_backups"
HISTORY = {"postgres_dagster_user": DAGSTER_ROLE, "postgres_dagster_password": "geheim"}


def fill(stores: Analytics) -> None:
    """Runs of two seasons, sent, corrected, waiting, and in a batch that was never tried."""
    stores.store(run(101, started=LONG_AGO), run(102), run(103, players=(2, 3)))
    send_until_quiet(stores)
    stores.store(run(104, started=HOUR - timedelta(hours=2)))  # takes the first clears of 102
    send_until_quiet(stores)
    stores.store(run(105, players=(4, 5)), run(200))
    mortal = Analytics(stores.settings, stores.postgres, MortalClient(stores.clickhouse, 0))  # type: ignore[arg-type]
    with pytest.raises(DeathError):
        mortal.send()
    assert stores.rows("SELECT state FROM streaming.clickhouse_batch WHERE state <> 'done'")
    stores.store(run(106, players=(5, 6)))  # in no batch
    for statement in LEDGER.strip().split(";\n"):
        stores.rows(statement)


@pytest.fixture(scope="module")
def source(
    postgres_server: dict[str, Any], clickhouse_server: dict[str, Any]
) -> Iterator[Analytics]:
    """Both stores with a bit of everything, for all tests of this module to read."""
    with (
        own_postgres(postgres_server) as postgres,
        own_clickhouse(clickhouse_server, postgres_server) as clickhouse,
    ):
        settings = make_settings(postgres, clickhouse, HISTORY)
        with (
            connected(settings, "pytest") as connection,
            closing(ch.connect(settings, "pytest")) as client,
        ):
            clickhouse_lookups.refresh_lookups(connection, client)
            stores = Analytics(settings, connection, client)
            fill(stores)
            yield stores


@pytest.fixture(scope="module")
def backup(source: Analytics, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """With Dagster's history, which is gone when the tests begin."""
    folder = tmp_path_factory.mktemp("backup") / "first"
    prepare_history(source.settings)
    with connected_to_history(source.settings) as cursor:
        cursor.execute("CREATE TABLE runs AS SELECT 7 AS id")
    make(source.settings, folder, jobs=1, tell=print)
    drop_databases(source.settings, HISTORY_DATABASE)
    yield folder
    source.rows(f"DROP ROLE {DAGSTER_ROLE}")


@contextmanager
def connected_to_history(settings: Settings) -> Iterator[Cursor]:
    """With the login of Dagster's processes."""
    with (
        closing(connect(settings.of_history, "pytest", database=HISTORY_DATABASE)) as connection,
        connection,
        connection.cursor() as cursor,
    ):
        yield cursor


def drop_databases(settings: Settings, *names: str) -> None:
    with closing(connect(settings, "pytest", database="postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            for name in names:
                cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def target(source: Analytics) -> Iterator[Settings]:
    """Databases that are not there yet, on the same servers."""
    names = {"postgres_db": "restored", "clickhouse_db": "restored"}
    settings = source.settings.model_copy(update=names)
    yield settings
    drop_databases(settings, "restored", HISTORY_DATABASE)
    source.clickhouse.command("DROP DATABASE IF EXISTS restored")


def restore(settings: Settings, folder: Path, *, force: bool = False) -> Reopened:
    return restore_all(settings, folder, force=force, jobs=1, hours=24, tell=print)


def assert_equal(stores: Analytics) -> None:
    """What is still to be sent goes out, and counts once."""
    send_until_quiet(stores)
    found = verify(stores.postgres, stores.clickhouse, wait_s=0)
    # These runs leave open what their reports say (`flawless`).
    assert [f for f in found if not f.is_equal and f.check != "reports"] == []


@pytest.fixture
def opened() -> Iterator[Callable[[Settings], Analytics]]:
    """Opens both stores of some settings; closed at the end of the test."""
    connections: list[Any] = []

    def opening(settings: Settings) -> Analytics:
        connections.extend((connect(settings, "pytest"), ch.connect(settings, "pytest")))
        return Analytics(settings, *connections[-2:])

    yield opening
    for connection in connections:
        connection.close()


SEASONS = "SELECT instance_id, season_id FROM core.instance ORDER BY 1"


def test_a_restore_ends_equal_and_asks_again_for_what_was_on_its_way(
    source: Analytics, backup: Path, target: Settings, opened: Callable[[Settings], Analytics]
) -> None:
    """The only copy there is: a row that is missing or counted twice afterwards stays so."""
    done = restore(target, backup)
    restored = opened(target)
    assert restored.rows(SEASONS) == source.rows(SEASONS)
    assert len({season for _, season in restored.rows(SEASONS)}) == 2
    with connected_to_history(target) as cursor:
        cursor.execute("ALTER TABLE runs ADD COLUMN tags text")  # as an upgrade of Dagster does
        cursor.execute("SELECT id FROM runs")
        assert cursor.fetchall() == [(7,)]

    messages = source.rows("SELECT count(*) FROM streaming.outbox WHERE kind = 'message'")[0][0]
    assert done == Reopened(blocks=1, missed=1, parked=1, messages=messages)
    blocks = "SELECT first_id, state FROM streaming.crawl_block ORDER BY 1"
    assert restored.rows(blocks) == [(100, "released"), (200, "done"), (300, "done")]
    due = "SELECT instance_id FROM streaming.missed_pgcr WHERE next_attempt_at <= now() ORDER BY 1"
    assert restored.rows(due) == [(300,), (301,)]

    # Sent before the backup are in ClickHouse already, the others come by the sender.
    assert [row[0] for row in restored.instances()] == [101, 102, 103, 104]
    assert_equal(restored)
    assert [row[0] for row in restored.instances()] == [101, 102, 103, 104, 105, 106, 200]
    for connection in (restored.postgres, restored.clickhouse):
        connection.close()

    # Once more over it: the engine still knows the tokens of the batches that were just sent.
    restore(target, backup, force=True)
    assert_equal(opened(target))


def test_a_backup_leaves_nothing_behind(source: Analytics, backup: Path) -> None:
    """A copy of `instance` that stays keeps deleted parts on the disk for ever."""
    assert source.select("SELECT name FROM system.tables WHERE name = 'instance_backup'") == []
    assert source.rows("SELECT pid FROM pg_locks WHERE locktype = 'advisory'") == []
    made = manifests.read(backup)
    assert (made.sizes.instances, made.clickhouse_rows) == (7, 4)
    password = source.settings.postgres_password
    assert password is not None
    assert password.get_secret_value() not in (backup / NAME).read_text("utf-8")


def test_a_clickhouse_ahead_of_a_recovered_postgresql_counts_nothing_twice(
    analytics: Analytics,
    target: Settings,
    tmp_path: Path,
    opened: Callable[[Settings], Analytics],
) -> None:
    """PostgreSQL by its WAL to some moment, ClickHouse as it was later: the usual accident.

    ClickHouse then has rows that PostgreSQL believes unsent, by a token it knows, and one that
    PostgreSQL never heard of.
    """
    fill(analytics)
    pg_tools.dump(analytics.settings, analytics.settings.postgres_db, tmp_path / "x", jobs=1)
    analytics.store(run(107, players=(6, 7)))
    send_until_quiet(analytics)

    make_database(target)
    pg_tools.restore(target, target.postgres_db, tmp_path / "x", jobs=1)
    kept = target.model_copy(update={"clickhouse_db": analytics.settings.clickhouse_db})
    recovered = opened(kept)
    list(match_clickhouse(recovered.postgres, recovered.clickhouse, now=datetime.now(UTC)))
    assert_equal(recovered)
    assert [row[0] for row in recovered.instances()] == [101, 102, 103, 104, 105, 106, 200]


def make_database(settings: Settings) -> None:
    with closing(connect(settings, "pytest", database="postgres")) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"CREATE DATABASE {settings.postgres_db}")


def test_asking_again_is_harmless(analytics: Analytics) -> None:
    """Typed twice, or when nothing was lost."""
    assert reopen(analytics.postgres, hours=24) == Reopened(0, 0, 0, 0)


Damage = Callable[[Path], object]


def cut(folder: Path) -> None:
    path = next((folder / CLICKHOUSE).iterdir())
    path.write_bytes(path.read_bytes()[:-1])


def flip(folder: Path) -> None:
    path = next((folder / CLICKHOUSE).iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def changed(**values: Any) -> Damage:
    def change(folder: Path) -> None:
        manifest = msgspec.structs.replace(manifests.read(folder), **values)
        (folder / NAME).write_bytes(msgspec.json.encode(manifest))

    return change


REFUSED: dict[str, tuple[Damage, str]] = {
    "gone": (shutil.rmtree, "there is no folder"),
    "not ended": (lambda folder: (folder / NAME).unlink(), "no backup, or one that did not end"),
    "no manifest": (lambda folder: (folder / NAME).write_text("{"), "is unreadable"),
    "lost file": (lambda folder: (folder / POSTGRES / "toc.dat").unlink(), "toc.dat is missing"),
    "cut file": (cut, "bytes instead of"),
    "flipped bit": (flip, "is not what was written"),
    "another format": (changed(format=2), "has the format 2"),
    "newer schema": (
        changed(postgres_migrations=["9999_pre_create_future"]),
        "lacks the PostgreSQL migration 9999_pre_create_future",
    ),
    "newer analytics": (changed(clickhouse_migrations=["9999_x"]), "ClickHouse migration 9999_x"),
    "newer server": (changed(postgres_version=990001), "of PostgreSQL 99 and the server"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_backup_that_cannot_be_restored_is_refused_before_anything_is_written(
    backup: Path, target: Settings, tmp_path: Path, case: str
) -> None:
    """Half a restore over a half-dead machine is worse than none."""
    damage, reason = REFUSED[case]
    folder = tmp_path / "damaged"
    shutil.copytree(backup, folder)
    damage(folder)
    with pytest.raises((ConfigurationError, PermanentError), match=reason):
        restore(target, folder, force=True)
    with (
        closing(connect(target, "pytest", database="postgres")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute("SELECT FROM pg_database WHERE datname = 'restored'")
        assert cursor.fetchall() == []


def test_a_target_that_holds_something_is_refused_without_force(
    source: Analytics, backup: Path, target: Settings
) -> None:
    """A wrong POSTGRES_HOST must not cost the healthy database."""
    filled = {"clickhouse_db": source.settings.clickhouse_db}
    with pytest.raises(ConfigurationError, match=r"holds 4 runs|holds 5 runs|--force drops them"):
        restore(target.model_copy(update=filled), backup)
    in_use = target.model_copy(update={"postgres_db": source.settings.postgres_db})
    with pytest.raises(ConfigurationError, match=r"is in use: stop pytest \(\d\) first"):
        restore(in_use, backup, force=True)


@pytest.mark.parametrize(
    ("statement", "holds"),
    [
        ("CREATE TABLE mine ()", "1 tables that are not ours"),
        ("CREATE TABLE runs AS SELECT 1", "runs of Dagster"),
    ],
    ids=["foreign", "dagster"],
)
def test_a_foreign_database_is_refused_without_force(
    backup: Path, target: Settings, statement: str, holds: str
) -> None:
    make_database(target)
    with closing(connect(target, "pytest")) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        connection.commit()
    with pytest.raises(ConfigurationError, match=holds):
        restore(target, backup)


def test_a_database_with_raids_is_refused_without_force(
    backup: Path, postgres: dict[str, Any], target: Settings
) -> None:
    held = target.model_copy(update={"postgres_db": postgres["postgres_db"]})
    with connected(held, "pytest") as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO streaming.crawl_cursor VALUES ('atlas', 1, 2, 10, now())")
    with pytest.raises(ConfigurationError, match="holds raids; --force drops it"):
        restore(held, backup)


def test_a_backup_needs_a_folder_of_its_own(source: Analytics, backup: Path) -> None:
    """Two backups in one folder would be none."""
    with pytest.raises(ConfigurationError, match="is not empty"):
        make(source.settings, backup, jobs=1, tell=print)


def test_two_backups_at_once_are_refused(source: Analytics, tmp_path: Path) -> None:
    """They would take each other's copy of `instance` away."""
    with (
        alone(source.settings, "pytest", "backup"),
        pytest.raises(PermanentError, match="backup runs already"),
    ):
        make(source.settings, tmp_path / "second", jobs=1, tell=print)


def test_two_restores_at_once_are_refused(
    source: Analytics, backup: Path, target: Settings
) -> None:
    """The second would drop what the first one fills."""
    maintenance = source.settings.model_copy(update={"postgres_db": "postgres"})
    with (
        alone(maintenance, "pytest", "restore"),
        pytest.raises(PermanentError, match="another restore runs"),
    ):
        restore(target, backup)


def test_a_login_that_may_make_no_database_restores_nothing(backup: Path, target: Settings) -> None:
    """POSTGRES_USER is the writer's wherever the roles are apart."""
    login = {"postgres_user": DAGSTER_ROLE, "postgres_password": target.postgres_dagster_password}
    with pytest.raises(ConfigurationError, match=f"{DAGSTER_ROLE} may make no database"):
        restore(target.model_copy(update=login), backup)


def test_a_tool_that_fails_says_why(source: Analytics, tmp_path: Path) -> None:
    """pg_dump's own words, one line; the folder is no backup then."""
    with pytest.raises(
        PermanentError, match=r'pg_dump failed: .*database "nowhere" does not exist'
    ):
        pg_tools.dump(source.settings, "nowhere", tmp_path / "x", jobs=1)


def test_the_command_tells_what_it_wrote(
    source: Analytics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("host", "port", "user", "db"):
        monkeypatch.setenv(
            f"POSTGRES_{name.upper()}", str(getattr(source.settings, f"postgres_{name}"))
        )
    password = source.settings.postgres_password
    monkeypatch.setenv("POSTGRES_PASSWORD", password.get_secret_value() if password else "")
    for name in ("host", "http_port", "db"):
        value = getattr(source.settings, f"clickhouse_{name}")
        monkeypatch.setenv(f"CLICKHOUSE_{name.upper()}", str(value))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(backup_command, ["out"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    manifest: Manifest = manifests.read(tmp_path / "out")
    assert f"out: {len(manifest.files)} files" in done.output
    assert (tmp_path / "out").stat().st_mode & 0o077 == 0
