-- Locks of whole pieces of work, held by a session; those of rows stand where they are taken.

-- name: try_lock_work
SELECT pg_try_advisory_lock(hashtext('work'), hashtext(%(name)s));

-- name: unlock_work
SELECT pg_advisory_unlock(hashtext('work'), hashtext(%(name)s));
