DROP TABLE IF EXISTS weapon_definition_twin;
DROP TABLE IF EXISTS version_twin;
DROP TABLE IF EXISTS activity_twin;
DROP TABLE IF EXISTS activity_version_twin;
DROP TABLE IF EXISTS weapon_definition;
DROP TABLE IF EXISTS version;
DROP TABLE IF EXISTS activity;
DROP TABLE IF EXISTS activity_version;
