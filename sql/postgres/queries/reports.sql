-- Which reports there are, for those who find ids elsewhere. Rules: docs/domain/queues.md.

-- name: is_stored
-- Primary key.
SELECT EXISTS (SELECT FROM core.instance WHERE instance_id = %(instance)s);

-- name: find_unknown
-- Primary keys. Neither stored nor on somebody's list of ids to fetch.
SELECT id
FROM unnest(%(ids)s::bigint[]) AS id
WHERE NOT EXISTS (SELECT FROM core.instance AS i WHERE i.instance_id = id)
  AND NOT EXISTS (
      SELECT FROM streaming.missed_pgcr AS m
      WHERE m.instance_id = id AND m.state IN ('waiting', 'malformed', 'blocked', 'unknown_hash')
  )
  AND NOT EXISTS (
      SELECT FROM streaming.withheld_pgcr AS w WHERE w.instance_id = id AND w.closed_at IS NULL
  )
ORDER BY id;
