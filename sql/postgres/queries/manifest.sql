-- The load of the game's manifest; upserts get only rows that differ from the stored ones.

-- name: read_state
-- Primary key.
SELECT value FROM streaming.api_state WHERE key = %(key)s;

-- name: write_state
-- Primary key.
INSERT INTO streaming.api_state (key, value) VALUES (%(key)s, %(value)s::jsonb)
ON CONFLICT (key) DO UPDATE SET value = excluded.value, updated_at = now();

-- name: select_weapon_definition
-- The whole table: some thousand rows.
SELECT hash, name, icon_path, weapon_type, element, slot, ammo_type, rarity
FROM definitions.weapon_definition;

-- name: select_class_definition
SELECT hash, name FROM definitions.class_definition;

-- name: select_activity_feat_definition
-- The whole table: some hundred rows.
SELECT hash, skull_hash, name, description, icon_path, description_short, modifier_power_contribution
FROM definitions.activity_feat_definition;

-- name: upsert_weapon_definition
INSERT INTO definitions.weapon_definition
    (hash, name, icon_path, weapon_type, element, slot, ammo_type, rarity)
VALUES %s
ON CONFLICT (hash) DO UPDATE SET
    name = excluded.name,
    icon_path = excluded.icon_path,
    weapon_type = excluded.weapon_type,
    element = excluded.element,
    slot = excluded.slot,
    ammo_type = excluded.ammo_type,
    rarity = excluded.rarity;

-- name: upsert_class_definition
INSERT INTO definitions.class_definition (hash, name)
VALUES %s
ON CONFLICT (hash) DO UPDATE SET name = excluded.name;

-- name: upsert_activity_feat_definition
INSERT INTO definitions.activity_feat_definition
    (hash, skull_hash, name, description, icon_path, description_short, modifier_power_contribution)
VALUES %s
ON CONFLICT (hash) DO UPDATE SET
    skull_hash = excluded.skull_hash,
    name = excluded.name,
    description = excluded.description,
    icon_path = excluded.icon_path,
    description_short = excluded.description_short,
    modifier_power_contribution = excluded.modifier_power_contribution;

-- name: count_parked_reports
-- Index missed_pgcr_unknown_hash_idx.
SELECT hash, count(*) FROM streaming.missed_pgcr
WHERE state = 'unknown_hash' AND hash = ANY(%(hashes)s)
GROUP BY hash;

-- name: find_emptiness
SELECT 0, 1 WHERE NOT EXISTS (SELECT FROM {table});

-- name: find_hashes
-- A scan, and the next one too: some thousand rows.
SELECT hash, count(*) OVER () FROM {table}
WHERE hash NOT BETWEEN 1 AND 4294967295
ORDER BY hash
LIMIT 5;

-- name: find_slots
SELECT hash, count(*) OVER () FROM definitions.weapon_definition
WHERE slot NOT IN ('Kinetic', 'Energy', 'Power', 'Unknown')
ORDER BY hash
LIMIT 5;
