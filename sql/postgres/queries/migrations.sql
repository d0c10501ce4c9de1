-- What `raidhub migrate` runs around the migrations. {role}, {database} and {schemas} are
-- identifiers, put in by psycopg2.sql; {password} is a verifier, never the password itself.

-- name: lock_migrations
-- Held until the connection ends, so a killed run cannot leave it behind. Taken twice: in the
-- maintenance database, because databases and roles belong to the whole server, and by the
-- connection that migrates, whose statement may outlive a killed client for a while.
SELECT pg_advisory_lock(7305127);

-- name: end_with_client
-- By default a long statement of a killed client runs to its end.
SET client_connection_check_interval = '1s';

-- name: limit_lock_waits
-- Whoever comes later queues behind a waiting ALTER TABLE, readers too.
SET LOCAL lock_timeout = '2s';

-- name: select_oldest_transaction
SELECT pid, application_name, extract(epoch FROM now() - xact_start)::bigint
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
ORDER BY xact_start
LIMIT 1;

-- name: select_applied
-- Newer ones may be among them.
SELECT migration_id FROM _yoyo_migration;

-- name: database_exists
SELECT EXISTS (SELECT FROM pg_database WHERE datname = %(name)s);

-- name: create_database
-- From template0: template1 may be in use, and only template0 may be copied with another encoding.
CREATE DATABASE {database} TEMPLATE template0 ENCODING 'UTF8';

-- name: select_role
SELECT current_user = %(role)s AS is_owner, EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s);

-- name: create_role
CREATE ROLE {role} NOLOGIN;

-- name: allow_login
ALTER ROLE {role} LOGIN PASSWORD {password};

-- name: grant_read
-- Default privileges cover what later migrations create. Whoever runs our code looks first which
-- migrations were applied.
GRANT SELECT ON _yoyo_migration TO PUBLIC;
GRANT CONNECT ON DATABASE {database} TO {role};
GRANT USAGE ON SCHEMA {schemas} TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA {schemas} TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schemas} GRANT SELECT ON TABLES TO {role};
