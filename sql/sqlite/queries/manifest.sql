-- The game's manifest. Each table has the columns id, the hash as a signed 32-bit number, and json.
-- Every read is a scan: all records are wanted, and only their JSON says which they are.

-- name: select_tables
SELECT name FROM sqlite_master WHERE type = 'table';

-- name: count_rows
SELECT 'DestinyInventoryItemDefinition', count(*) FROM DestinyInventoryItemDefinition
UNION ALL
SELECT 'DestinyClassDefinition', count(*) FROM DestinyClassDefinition
UNION ALL
SELECT 'DestinyActivityDefinition', count(*) FROM DestinyActivityDefinition
UNION ALL
SELECT 'DestinyActivityDifficultyTierCollectionDefinition', count(*)
FROM DestinyActivityDifficultyTierCollectionDefinition
UNION ALL
SELECT 'DestinyActivitySelectableSkullCollectionDefinition', count(*)
FROM DestinyActivitySelectableSkullCollectionDefinition;

-- name: select_items
SELECT id, json FROM DestinyInventoryItemDefinition;

-- name: select_classes
SELECT id, json FROM DestinyClassDefinition;

-- name: select_activities
SELECT id, json FROM DestinyActivityDefinition;

-- name: select_tiers
SELECT id, json FROM DestinyActivityDifficultyTierCollectionDefinition;

-- name: select_skulls
SELECT id, json FROM DestinyActivitySelectableSkullCollectionDefinition;
