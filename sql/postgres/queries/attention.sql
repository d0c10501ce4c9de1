-- What a person has to hear about, asked by the relay's upkeep.

-- name: claim_unknown_hashes
-- Index missed_pgcr_unknown_hash_idx. Whoever inserts the key is the one who tells: once a hash,
-- over all processes and restarts.
WITH unknown AS MATERIALIZED (
    SELECT hash, min(instance_id) AS first_id, count(*) AS reports
    FROM streaming.missed_pgcr
    WHERE state = 'unknown_hash' AND hash IS NOT NULL
    GROUP BY hash
), claimed AS (
    INSERT INTO streaming.api_state (key, value)
    SELECT 'told:unknown_hash:' || hash, to_jsonb(first_id)
    FROM unknown
    ORDER BY hash
    ON CONFLICT (key) DO NOTHING
    RETURNING key
)
SELECT hash, first_id, reports
FROM unknown
INNER JOIN claimed ON claimed.key = 'told:unknown_hash:' || hash
ORDER BY hash;
