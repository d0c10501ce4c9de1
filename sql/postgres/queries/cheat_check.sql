-- The ledger of cheat checks. Rules: docs/domain/queues.md, "Cheat checks".

-- name: lock_instance
-- The key that the store takes for the instance: a check never sees half of a replaced report.
SELECT pg_advisory_xact_lock(%(instance)s);

-- name: is_checked
-- Primary key.
SELECT EXISTS (
    SELECT FROM streaming.cheat_check WHERE instance_id = %(instance)s AND version = %(version)s
);

-- name: record
-- Primary key.
INSERT INTO streaming.cheat_check (instance_id, version, probability, bitmask, flagged_players)
VALUES (%(instance)s, %(version)s, %(probability)s, %(bitmask)s, %(flagged_players)s)
ON CONFLICT (instance_id, version) DO NOTHING;
