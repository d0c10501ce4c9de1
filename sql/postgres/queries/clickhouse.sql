-- PostgreSQL's side of ClickHouse: which rows are on their way, and the locks of those who send.
-- Locks are two-key ones: a space of their own beside the one-key locks that the store takes on
-- players. They belong to the session, so a killed process leaves none.

-- name: lock
SELECT pg_advisory_lock(hashtext('clickhouse'), hashtext(%(name)s));

-- name: try_lock
SELECT pg_try_advisory_lock(hashtext('clickhouse'), hashtext(%(name)s));

-- name: unlock
SELECT pg_advisory_unlock(hashtext('clickhouse'), hashtext(%(name)s));
