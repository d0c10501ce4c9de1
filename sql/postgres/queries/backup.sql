-- What a backup notes beside the dumps, and what a restore looks at before it writes anything.
-- {database} and {role} are identifiers, put in by psycopg2.sql.

-- name: begin_snapshot
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY;

-- name: export_snapshot
-- Valid while this transaction is open: every worker of pg_dump sees the same moment.
SELECT pg_export_snapshot();

-- name: list_migrations
SELECT migration_id FROM _yoyo_migration ORDER BY migration_id;

-- name: list_roles
-- Roles that own or may use something in this database; a server without them cannot restore it.
SELECT DISTINCT r.rolname
FROM pg_shdepend AS d
INNER JOIN pg_roles AS r ON r.oid = d.refobjid
WHERE d.refclassid = 'pg_authid'::regclass
  AND d.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
ORDER BY r.rolname;

-- name: list_missing_roles
SELECT role FROM unnest(%(roles)s::text[]) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role);

-- name: may_make_databases
SELECT current_user, rolsuper OR rolcreatedb FROM pg_roles WHERE rolname = current_user;

-- name: list_clients
-- Who would write into a database that is being restored, or be cut off by it.
SELECT coalesce(nullif(application_name, ''), 'a client without a name'), count(*)
FROM pg_stat_activity
WHERE datname = %(name)s AND backend_type = 'client backend' AND pid <> pg_backend_pid()
GROUP BY 1
ORDER BY 1;

-- name: count_tables
SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema');

-- name: has_table
SELECT to_regclass(%(table)s) IS NOT NULL;

-- name: has_raids
SELECT EXISTS (SELECT FROM core.instance) OR EXISTS (SELECT FROM streaming.crawl_cursor);

-- name: has_runs
SELECT EXISTS (SELECT FROM runs);

-- name: drop_database
DROP DATABASE IF EXISTS {database};

-- name: analyze
-- A dump carries no statistics, and the planner's guesses without them take hours.
ANALYZE;
