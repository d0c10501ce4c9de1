-- Replaces the content of a lookup table at once: the twin is filled, counted and exchanged with it.

-- name: empty
TRUNCATE TABLE {twin:Identifier};

-- name: count
SELECT count() FROM {twin:Identifier};

-- name: exchange
EXCHANGE TABLES {lookup:Identifier} AND {twin:Identifier};

-- name: missing_hashes
SELECT arrayJoin({hashes:Array(Int64)}) AS hash
WHERE hash NOT IN (SELECT hash FROM activity_version)
ORDER BY hash;
