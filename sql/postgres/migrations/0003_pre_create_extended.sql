-- Schema extended: characters and weapons of each player of an instance.
-- Rules: docs/domain/schema.md.
CREATE SCHEMA extended;

CREATE TABLE extended.instance_character (
    instance_id bigint NOT NULL,
    membership_id bigint NOT NULL,
    character_id bigint NOT NULL,
    class_hash bigint,
    emblem_hash bigint,
    completed boolean NOT NULL,
    score integer NOT NULL DEFAULT 0,
    kills integer NOT NULL DEFAULT 0,
    assists integer NOT NULL DEFAULT 0,
    deaths integer NOT NULL DEFAULT 0,
    precision_kills integer NOT NULL DEFAULT 0,
    super_kills integer NOT NULL DEFAULT 0,
    grenade_kills integer NOT NULL DEFAULT 0,
    melee_kills integer NOT NULL DEFAULT 0,
    time_played_seconds integer NOT NULL,
    start_seconds integer NOT NULL,
    PRIMARY KEY (instance_id, membership_id, character_id),
    FOREIGN KEY (instance_id, membership_id) REFERENCES core.instance_player ON DELETE RESTRICT
);
CREATE INDEX instance_character_membership_id_idx ON extended.instance_character (membership_id);

CREATE TABLE extended.instance_character_weapon (
    instance_id bigint NOT NULL,
    membership_id bigint NOT NULL,
    character_id bigint NOT NULL,
    weapon_hash bigint NOT NULL,           -- no key: weapons appear in reports before the manifest
    kills integer NOT NULL DEFAULT 0,
    precision_kills integer NOT NULL DEFAULT 0,
    PRIMARY KEY (instance_id, membership_id, character_id, weapon_hash),
    FOREIGN KEY (instance_id, membership_id, character_id)
        REFERENCES extended.instance_character ON DELETE RESTRICT
);
