-- One row a stored instance; a corrected row has a higher revision, and FINAL shows only that.
-- Nested columns stay whole: the connection has flatten_nested = 0.
-- Retries are recognised by their token among the last 10 000 blocks of a table.
CREATE TABLE IF NOT EXISTS instance (
    instance_id Int64,
    hash UInt32,
    completed UInt8,
    player_count UInt32,
    fresh UInt8 COMMENT '0, 1, or 2 = unknown',
    flawless UInt8 COMMENT '0, 1, or 2 = unknown',
    date_started DateTime,
    date_completed DateTime,
    platform_type UInt16,
    duration UInt32 COMMENT 'seconds',
    score Int32,
    players Nested (
        membership_id Int64,
        completed UInt8,
        time_played_seconds UInt32,
        sherpas UInt32,
        is_first_clear UInt8,
        characters Nested (
            character_id Int64,
            class_hash UInt32,
            emblem_hash UInt32,
            completed UInt8,
            score Int32,
            kills UInt32,
            assists UInt32,
            deaths UInt32,
            precision_kills UInt32,
            super_kills UInt32,
            grenade_kills UInt32,
            melee_kills UInt32,
            time_played_seconds UInt32,
            start_seconds UInt32,
            weapons Nested (
                weapon_hash UInt32,
                kills UInt32,
                precision_kills UInt32
            )
        )
    ),
    revision UInt32 DEFAULT 1,
    -- Ids rise with time, so this finds the rows of given ids without their date.
    INDEX instance_id_range instance_id TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(date_completed)
PRIMARY KEY (date_completed, instance_id)
ORDER BY (date_completed, instance_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- Same structure, for rows that must not pass the views: filled, attached to `instance` by
-- partition, emptied. No deduplication here, the same rows may come again.
CREATE TABLE IF NOT EXISTS instance_staging AS instance
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(date_completed)
PRIMARY KEY (date_completed, instance_id)
ORDER BY (date_completed, instance_id);
