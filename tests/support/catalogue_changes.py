"""What a migration changed in PostgreSQL's catalogue, and whether a running release bears it.

Looked at before and after, so it does not matter how the migration is written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812

from raidhub_dagster.storage.schema import Phase

Rows = dict[str, dict[str, Any]]  # name -> what it is

_OURS = "NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'public')"

_STATEMENTS = {
    "schemas": f"""
        SELECT nspname AS name FROM pg_namespace n
        WHERE nspname {_OURS} AND nspname NOT LIKE 'pg\\_%'""",
    "relations": f"""
        SELECT format('%s.%s', nspname, relname) AS name, c.oid, relkind::text AS kind,
            relfilenode AS file, pg_get_userbyid(relowner) AS owner,
            ARRAY(SELECT format('%s to %s', a.privilege_type, a.grantee::regrole)
                FROM aclexplode(relacl) AS a WHERE a.grantee <> 0) AS privileges
        FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname {_OURS} AND relkind IN ('r', 'p', 'v', 'm', 'S')""",
    "columns": f"""
        SELECT format('%s.%s.%s', nspname, relname, attname) AS name,
            format('%s.%s', nspname, relname) AS relation, attname AS column,
            format_type(atttypid, atttypmod) AS type, attnotnull AS not_null,
            atthasdef OR attidentity <> '' AS has_default
        FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
        JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname {_OURS} AND relkind IN ('r', 'p', 'v', 'm') AND attnum > 0
          AND NOT attisdropped""",
    "constraints": f"""
        SELECT format('%s.%s.%s', nspname, relname, conname) AS name,
            format('%s.%s', nspname, relname) AS relation, contype::text AS kind,
            convalidated AS validated, pg_get_constraintdef(k.oid) AS definition
        FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid
        JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname {_OURS} AND contype IN ('c', 'f', 'p', 'u', 'x')""",
    "indexes": f"""
        SELECT format('%s.%s', nspname, i.relname) AS name,
            format('%s.%s', nspname, t.relname) AS relation, indisunique AS is_unique,
            indisvalid AS is_valid, i.relfilenode AS file, i.oid
        FROM pg_index x JOIN pg_class i ON i.oid = indexrelid JOIN pg_class t ON t.oid = indrelid
        JOIN pg_namespace n ON n.oid = t.relnamespace
        WHERE nspname {_OURS}""",
    "triggers": f"""
        SELECT format('%s.%s.%s', nspname, relname, tgname) AS name,
            format('%s.%s', nspname, relname) AS relation
        FROM pg_trigger g JOIN pg_class c ON c.oid = tgrelid
        JOIN pg_namespace n ON n.oid = relnamespace
        WHERE nspname {_OURS} AND NOT tgisinternal""",
    "functions": f"""
        SELECT format('%s.%s(%s)', nspname, proname, pg_get_function_identity_arguments(p.oid))
                AS name,
            pg_get_function_result(p.oid) AS result
        FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
        WHERE nspname {_OURS}""",
    "types": f"""
        SELECT format('%s.%s', nspname, typname) AS name,
            ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = t.oid) AS labels
        FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace
        WHERE nspname {_OURS} AND typtype IN ('e', 'd')""",
}

# Rows that repairs keep as JSON and may put back much later (sql/postgres/queries/clearing.sql).
_PUT_BACK = frozenset(
    f"flagging.{verdict}_instance{of}"
    for verdict in ("flag", "blacklist")
    for of in ("", "_player")
)


@dataclass(frozen=True)
class Catalogue:
    """Everything in our schemas, by name."""

    schemas: Rows
    relations: Rows
    columns: Rows
    constraints: Rows
    indexes: Rows
    triggers: Rows
    functions: Rows
    types: Rows


def read_catalogue(connection: Connection) -> Catalogue:
    """As this connection's transaction sees it."""
    return Catalogue(**{kind: _read(connection, text) for kind, text in _STATEMENTS.items()})


def _read(connection: Connection, statement: str) -> Rows:
    with connection.cursor() as cursor:
        cursor.execute(statement)
        names = [column.name for column in cursor.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return {row["name"]: row for row in rows}


def violations(
    before: Catalogue, after: Catalogue, phase: Phase, *, in_transaction: bool
) -> list[str]:
    """What the migration does that its phase must not do, in words; empty when it may run.

    The rules and their reasons are in docs/operations/migrations.md.
    """
    found = list(_locks(before, after, in_transaction=in_transaction))
    if phase is Phase.PRE:
        found += _losses(before, after)
        found += _demands(before, after)
    return found


def _losses(before: Catalogue, after: Catalogue) -> Iterator[str]:
    """What old code reads, writes or calls and does not find any more."""
    for kind in ("schemas", "relations", "columns", "functions", "types"):
        for name in getattr(before, kind).keys() - getattr(after, kind).keys():
            yield f"{name} is gone"
    for name, old, new in _both(before.relations, after.relations):
        if old["oid"] != new["oid"]:
            yield f"{name} was dropped and made anew"
        if old["owner"] != new["owner"]:
            yield f"{name} has another owner"
        for privilege in sorted(set(old["privileges"]) - set(new["privileges"])):
            yield f"{name}: {privilege} was taken away"
    for name, old, new in _both(before.columns, after.columns):
        if old["type"] != new["type"]:
            yield f"{name} has another type"
        if old["not_null"] and not new["not_null"]:
            yield f"{name} may be null, which old code does not expect"
        if old["has_default"] and not new["has_default"]:
            yield f"{name} lost its default"
    for name, old, new in _both(before.functions, after.functions):
        if old["result"] != new["result"]:
            yield f"{name} returns something else"
    for name, old, new in _both(before.types, after.types):
        if not set(old["labels"]) <= set(new["labels"]):
            yield f"{name} lost a label"
    for name, old in before.indexes.items():
        if old["is_unique"] and name not in after.indexes:
            yield f"{name} is gone, and ON CONFLICT of old code needs it"


def _demands(before: Catalogue, after: Catalogue) -> Iterator[str]:
    """What old code's writes do not fulfil."""
    for name, new in _added(before.columns, after.columns):
        if new["relation"] in before.relations and new["not_null"]:
            if not new["has_default"]:
                yield f"{name} is new, not null and without default"
            if new["relation"] in _PUT_BACK:
                yield f"{name} is new and not null: rows taken away before cannot be put back"
    for name, old, new in _both(before.columns, after.columns):
        if new["not_null"] and not old["not_null"]:
            yield f"{name} became not null"
    for name, new in _added(before.constraints, after.constraints):
        if new["relation"] in before.relations:
            yield f"{name} is a new constraint"
    for name, new in _added(before.indexes, after.indexes):
        if new["relation"] in before.relations and new["is_unique"]:
            yield f"{name} is a new unique index"
    for name, new in _added(before.triggers, after.triggers):
        if new["relation"] in before.relations:
            yield f"{name} is a new trigger"


def _locks(before: Catalogue, after: Catalogue, *, in_transaction: bool) -> Iterator[str]:
    """What holds readers or writers off for as long as a table is large."""
    for kind in ("relations", "indexes"):
        for name, old, new in _both(getattr(before, kind), getattr(after, kind)):
            if old["oid"] == new["oid"] and old["file"] != new["file"]:
                yield f"{name} is rewritten under a lock"
    for name, new in _added(before.indexes, after.indexes):
        if new["relation"] in before.relations and in_transaction:
            yield f"{name} is built while nobody can write: use CREATE INDEX CONCURRENTLY"
        if not new["is_valid"]:
            yield f"{name} is not valid"
    for name, new in _added(before.constraints, after.constraints):
        is_scanned = new["kind"] in ("c", "f") and new["validated"]
        if new["relation"] in before.relations and is_scanned:
            yield f"{name} is checked under a lock: NOT VALID first, VALIDATE in another migration"
    proven = {
        (k["relation"], k["definition"]) for k in before.constraints.values() if k["validated"]
    }
    for name, old, new in _both(before.columns, after.columns):
        is_proven = (new["relation"], f"CHECK (({new['column']} IS NOT NULL))") in proven
        if new["not_null"] and not old["not_null"] and not is_proven:
            yield f"{name} is searched for nulls under a lock: a valid CHECK saves that"


def _both(before: Rows, after: Rows) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for name in sorted(before.keys() & after.keys()):
        yield name, before[name], after[name]


def _added(before: Rows, after: Rows) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in sorted(after.keys() - before.keys()):
        yield name, after[name]
