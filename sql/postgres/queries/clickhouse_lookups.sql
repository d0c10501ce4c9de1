-- What ClickHouse's lookup tables are copies of. One statement a table, columns in its order.
-- Scans: each of these tables is small (weapons, the largest, has a few thousand rows).

-- name: activity_version
SELECT hash, activity_id, version_id FROM definitions.activity_version;

-- name: activity
SELECT
    id, name, is_sunset::int AS is_sunset, is_raid::int AS is_raid, path, release_date,
    contest_end, week_one_end, milestone_hash, day_one_end
FROM definitions.activity_definition;

-- name: version
SELECT id, name FROM definitions.version_definition;

-- name: weapon_definition
SELECT hash, name, icon_path, element, slot, ammo_type, rarity, weapon_type
FROM definitions.weapon_definition;
