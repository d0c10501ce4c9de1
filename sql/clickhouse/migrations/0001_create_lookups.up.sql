-- Local copies of PostgreSQL's definitions: what turns a hash into activity and version inside the
-- insert-time views. Each has a twin that is filled and then exchanged with it, so that a view
-- never sees half a table. Filled by raidhub_dagster/storage/clickhouse_lookups.py.
-- ClickHouse has no transactional DDL: IF NOT EXISTS lets a migration that was killed run again.
CREATE TABLE IF NOT EXISTS activity_version (
    hash Int64,
    activity_id UInt16,
    version_id UInt16
) ENGINE = MergeTree ORDER BY hash;

CREATE TABLE IF NOT EXISTS activity (
    id Int32,
    name String,
    is_sunset UInt8,
    is_raid UInt8,
    path String,
    release_date DateTime,
    contest_end Nullable(DateTime),
    week_one_end Nullable(DateTime),
    milestone_hash Nullable(UInt32),
    day_one_end DateTime
) ENGINE = MergeTree ORDER BY id;

CREATE TABLE IF NOT EXISTS version (
    id Int32,
    name String
) ENGINE = MergeTree ORDER BY id;

CREATE TABLE IF NOT EXISTS weapon_definition (
    hash Int64,
    name String,
    icon_path String,
    element String,
    slot String,
    ammo_type String,
    rarity String,
    weapon_type String
) ENGINE = MergeTree ORDER BY hash;

CREATE TABLE IF NOT EXISTS activity_version_twin AS activity_version;
CREATE TABLE IF NOT EXISTS activity_twin AS activity;
CREATE TABLE IF NOT EXISTS version_twin AS version;
CREATE TABLE IF NOT EXISTS weapon_definition_twin AS weapon_definition;
