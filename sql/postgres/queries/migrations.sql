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
SELECT current_user = %(role)s AS is_ours, EXISTS (SELECT FROM pg_roles WHERE rolname = %(role)s);

-- name: create_role
CREATE ROLE {role} NOLOGIN;

-- name: allow_login
ALTER ROLE {role} LOGIN PASSWORD {password};

-- name: close_to_everybody
-- What PostgreSQL gives to every login of the server by itself: to connect, temporary tables, to
-- call functions. The last is the only one for which default privileges must be taken back.
REVOKE ALL ON DATABASE {database} FROM PUBLIC;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA {schemas} FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

-- name: grant_read
-- Default privileges cover what later migrations create.
GRANT CONNECT ON DATABASE {database} TO {role};
GRANT USAGE ON SCHEMA {schemas} TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA {schemas} TO {role};
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA {schemas} TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schemas} GRANT SELECT ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schemas} GRANT EXECUTE ON FUNCTIONS TO {role};

-- name: grant_write
-- Rows of every kind and no table: neither TRUNCATE, which skips the outbox, nor any DDL. Whoever
-- runs our code looks first which migrations were applied.
GRANT USAGE ON SCHEMA public TO {role};
GRANT SELECT ON _yoyo_migration TO {role};
GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schemas} TO {role};
GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schemas} TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schemas} GRANT INSERT, UPDATE, DELETE ON TABLES TO {role};
ALTER DEFAULT PRIVILEGES IN SCHEMA {schemas} GRANT USAGE ON SEQUENCES TO {role};

-- name: is_history_open
SELECT has_database_privilege('public', %(name)s, 'CONNECT')
    OR has_database_privilege('public', %(name)s, 'TEMPORARY');

-- name: close_history
-- Dagster's database: run configurations and errors are nobody else's business.
REVOKE ALL ON DATABASE {database} FROM PUBLIC;

-- name: own_history
-- Dagster makes and changes its tables by itself, so its role owns the database, and with it schema
-- public. Giving something away asks the giver to be a member.
GRANT {role} TO CURRENT_USER;
ALTER DATABASE {database} OWNER TO {role};

-- name: select_history_tables
-- Those that another login made before the role had a password; their sequences follow them.
SELECT relname
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
  AND relowner <> (SELECT oid FROM pg_roles WHERE rolname = %(role)s);

-- name: own_table
ALTER TABLE public.{table} OWNER TO {role};
