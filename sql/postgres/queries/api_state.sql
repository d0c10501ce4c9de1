-- What is known about Bungie's systems, shared by all processes. docs/domain/queues.md, "Maintenance".

-- name: record
-- Primary key; keys ascending, so that two writers wait for each other instead of deadlocking. An
-- observation older than the one that is there tells nothing.
INSERT INTO streaming.api_state AS s (key, value, updated_at)
SELECT %(prefix)s || o.name, to_jsonb(o.enabled), now() - o.age_s * interval '1 second'
FROM unnest(%(names)s::text[], %(enabled)s::boolean[], %(ages_s)s::double precision[])
     AS o(name, enabled, age_s)
ORDER BY o.name
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at
WHERE s.updated_at < excluded.updated_at;

-- name: read
-- Primary key, a handful of rows.
SELECT substr(key, length(%(prefix)s) + 1), value = 'true'::jsonb,
       greatest(extract(epoch FROM now() - updated_at), 0)::double precision AS age_s
FROM streaming.api_state
WHERE starts_with(key, %(prefix)s);
