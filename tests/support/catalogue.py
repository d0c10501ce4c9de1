"""What the stores themselves say of their tables' columns."""

from clickhouse_connect.driver.client import Client
from psycopg2.extensions import connection as Connection  # noqa: N812  the driver's own class

Columns = dict[str, list[tuple[str, str]]]  # table -> (name, type) in the table's order


def postgres_columns(connection: Connection) -> Columns:
    """Of every table and view outside the system's schemas, by its name with the schema."""
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT format('%s.%s', n.nspname, c.relname), a.attname,"
            " format_type(a.atttypid, a.atttypmod)"
            " FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid"
            " JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE c.relkind IN ('r', 'v', 'm', 'p') AND a.attnum > 0 AND NOT a.attisdropped"
            " AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
            " ORDER BY 1, a.attnum"
        )
        return _by_table(cursor.fetchall())


def clickhouse_columns(client: Client) -> Columns:
    """Of every table of the client's database. A nested column is one: its parts are its type."""
    found = client.query(
        "SELECT table, name, type FROM system.columns WHERE database = currentDatabase()"
        " ORDER BY table, position"
    )
    return _by_table([(table, name, kind) for table, name, kind in found.result_rows])


def _by_table(rows: list[tuple[str, str, str]]) -> Columns:
    columns: Columns = {}
    for table, name, kind in rows:
        columns.setdefault(table, []).append((name, kind))
    return columns
