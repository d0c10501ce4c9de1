"""What a migration may do while the release before it still runs, held for all that follow."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.settings import Settings
from raidhub_dagster.storage.migrations import migrate_postgres
from raidhub_dagster.storage.postgres import connect
from raidhub_dagster.storage.schema import MIGRATIONS, Phase, phase_of
from tests.conftest import make_settings, own_postgres
from tests.support.catalogue_changes import read_catalogue, violations

SettingsFor = Callable[..., Settings]

# No release runs anywhere yet (the repository has no tag): the first one brings these to an empty
# database, and nothing reads it meanwhile. Whatever comes behind them meets a running release.
BEFORE_THE_FIRST_RELEASE = 21

_TRANSACTION_OFF = "-- transactional: false"


@pytest.fixture(scope="module")
def database(postgres_server: dict[str, Any]) -> Iterator[Connection]:
    with own_postgres(postgres_server) as own, closing(connect(make_settings(own), "pytest")) as c:
        yield c


@pytest.fixture
def connection(database: Connection) -> Iterator[Connection]:
    """Of a migrated database; what a test does in a transaction is rolled back."""
    yield database
    database.rollback()
    database.autocommit = False


def violations_of(connection: Connection, statements: str, phase: str) -> list[str]:
    """What a migration of these statements does wrong; leaves its transaction open."""
    in_transaction = _TRANSACTION_OFF not in statements
    if not in_transaction:
        connection.autocommit = True
    before = read_catalogue(connection)
    with connection.cursor() as cursor:
        for statement in [statements] if in_transaction else statements.split(";"):
            if statement.strip():
                cursor.execute(statement)
    after = read_catalogue(connection)
    return violations(before, after, Phase(phase), in_transaction=in_transaction)


def test_every_migration_since_the_first_release_keeps_the_rules(
    postgres: dict[str, Any], settings_for: SettingsFor, tmp_path: Path
) -> None:
    """Pods of two releases work on one database during a rollout."""
    settings = settings_for(postgres, postgres_db=f"{postgres['postgres_db']}_rules")
    paths = sorted(MIGRATIONS.glob("*.sql"))
    old = [path for path in paths if int(path.name[:4]) <= BEFORE_THE_FIRST_RELEASE]
    for path in old:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    migrate_postgres(settings, folder=tmp_path)
    found = {}
    with closing(connect(settings, "pytest")) as connection:
        connection.autocommit = True
        for path in paths[len(old) :]:
            (tmp_path / path.name).write_bytes(path.read_bytes())
            before = read_catalogue(connection)
            assert migrate_postgres(settings, folder=tmp_path) == [path.stem]
            after = read_catalogue(connection)
            in_transaction = _TRANSACTION_OFF not in path.read_text("utf-8")
            phase = phase_of(path.stem)
            if wrong := violations(before, after, phase, in_transaction=in_transaction):
                found[path.stem] = wrong
    assert found == {}


ALLOWED = {
    "table": """CREATE TABLE streaming.future (id bigint PRIMARY KEY, n integer CHECK (n > 0));
        CREATE INDEX future_n_idx ON streaming.future (n)""",
    "nullable column": "ALTER TABLE core.player ADD COLUMN future text",
    "column with default": "ALTER TABLE core.player ADD COLUMN future integer NOT NULL DEFAULT 7",
    "function": "CREATE FUNCTION streaming.future() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
    "view": "CREATE VIEW core.future AS SELECT membership_id FROM core.player",
    "grant": "GRANT SELECT ON streaming.outbox TO readonly",
    "index": f"""{_TRANSACTION_OFF}
        DROP INDEX CONCURRENTLY IF EXISTS core.future_idx;
        CREATE INDEX CONCURRENTLY future_idx ON core.player (last_seen)""",
}


@pytest.mark.parametrize("statement", ALLOWED.values(), ids=ALLOWED)
def test_what_old_code_bears_is_allowed_before_a_rollout(
    connection: Connection, statement: str
) -> None:
    """A rule that refuses everything would be switched off."""
    assert violations_of(connection, statement, "pre") == []


REFUSED_BEFORE = {
    "drop table": ("DROP TABLE streaming.young_pgcr", "young_pgcr is gone"),
    "drop column": ("ALTER TABLE streaming.young_pgcr DROP COLUMN rounds", "rounds is gone"),
    "drop by text": (
        "DO $$ BEGIN EXECUTE 'DROP TABLE streaming.' || 'young_pgcr'; END $$",
        "young_pgcr is gone",
    ),
    "rename column": (
        "ALTER TABLE streaming.young_pgcr RENAME due_at TO next_at",
        "due_at is gone",
    ),
    "rename table": ("ALTER TABLE streaming.young_pgcr RENAME TO young", "young_pgcr is gone"),
    "drop function": (
        "DROP FUNCTION streaming.is_superseded(bigint, text, timestamptz, text[])",
        "is_superseded",
    ),
    "new view of its name": (
        "DROP MATERIALIZED VIEW leaderboard.clan_leaderboard;"
        "CREATE MATERIALIZED VIEW leaderboard.clan_leaderboard AS SELECT 1 AS group_id",
        "was dropped and made anew",
    ),
    "type": (
        "ALTER TABLE streaming.young_pgcr ALTER rounds TYPE integer",
        "young_pgcr.rounds has another type",
    ),
    "null allowed": (
        "ALTER TABLE streaming.young_pgcr ALTER due_at DROP NOT NULL",
        "due_at may be null",
    ),
    "null refused": ("ALTER TABLE core.player ALTER icon_path SET NOT NULL", "became not null"),
    "no default": ("ALTER TABLE core.player ADD COLUMN future text NOT NULL", "without default"),
    "kept rows": (
        "ALTER TABLE flagging.flag_instance ADD COLUMN future integer NOT NULL DEFAULT 7",
        "cannot be put back",
    ),
    "default dropped": (
        "ALTER TABLE streaming.young_pgcr ALTER rounds DROP DEFAULT",
        "rounds lost its default",
    ),
    "constraint": (
        "ALTER TABLE core.player ADD CONSTRAINT future CHECK (clears >= 0) NOT VALID",
        "future is a new constraint",
    ),
    "unique key dropped": (
        "ALTER TABLE flagging.review_queue"
        " DROP CONSTRAINT review_queue_membership_id_instance_id_key",
        "ON CONFLICT",
    ),
    "unique index": (
        f"{_TRANSACTION_OFF}\nCREATE UNIQUE INDEX CONCURRENTLY f ON core.player (icon_path)",
        "is a new unique index",
    ),
    "trigger": (
        "CREATE TRIGGER future BEFORE UPDATE ON core.player FOR EACH ROW"
        " EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        "future is a new trigger",
    ),
    "privilege": (
        "REVOKE INSERT ON core.player FROM CURRENT_USER",
        "core.player: INSERT to raidhub was taken away",
    ),
}

REFUSED_ALWAYS = {
    "rewrite": (
        "ALTER TABLE core.instance ADD COLUMN future timestamptz DEFAULT clock_timestamp()",
        "core.instance is rewritten under a lock",
    ),
    "index": ("CREATE INDEX late_idx ON core.player (last_seen)", "CREATE INDEX CONCURRENTLY"),
    "checked constraint": (
        "ALTER TABLE core.player ADD CONSTRAINT future CHECK (clears >= 0)",
        "future is checked under a lock",
    ),
    "search for nulls": (
        "ALTER TABLE core.player ALTER icon_path SET NOT NULL",
        "icon_path is searched for nulls under a lock",
    ),
}

REFUSED = [
    *(pytest.param("pre", *case, id=f"pre-{name}") for name, case in REFUSED_BEFORE.items()),
    *(
        pytest.param(phase, *case, id=f"{phase}-{name}")
        for phase in ("pre", "post")
        for name, case in REFUSED_ALWAYS.items()
    ),
]


@pytest.mark.parametrize(("phase", "statement", "told"), REFUSED)
def test_what_breaks_or_stops_running_code_is_refused(
    connection: Connection,
    phase: str,
    statement: str,
    told: str,
) -> None:
    """The release before it would fail, or wait, from the first step of a rollout to the last."""
    found = violations_of(connection, statement, phase)
    assert any(told in wrong for wrong in found), found


TAKEN_AWAY = {
    "column": "ALTER TABLE streaming.young_pgcr DROP COLUMN rounds",
    "table": "DROP TABLE streaming.young_pgcr",
    "new constraint": "ALTER TABLE core.player ADD CONSTRAINT f CHECK (clears >= 0) NOT VALID",
    "index": f"{_TRANSACTION_OFF}\nDROP INDEX CONCURRENTLY core.instance_date_completed_brin",
}


@pytest.mark.parametrize("statement", TAKEN_AWAY.values(), ids=TAKEN_AWAY)
def test_what_nobody_reads_any_more_may_go_after_a_rollout(
    connection: Connection, statement: str
) -> None:
    assert violations_of(connection, statement, "post") == []


def test_a_proven_column_may_become_not_null_after_a_rollout(
    connection: Connection,
) -> None:
    """The way that docs/operations/migrations.md describes, step by step."""
    steps = (
        "ALTER TABLE core.player ADD CONSTRAINT f CHECK (icon_path IS NOT NULL) NOT VALID",
        "ALTER TABLE core.player VALIDATE CONSTRAINT f",
        "ALTER TABLE core.player ALTER icon_path SET NOT NULL, DROP CONSTRAINT f",
    )
    for statement in steps:
        assert violations_of(connection, statement, "post") == []
