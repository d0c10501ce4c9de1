-- Schema flagging: what the cheat detection found and what people or rules excluded.
-- Rules: docs/domain/schema.md.
CREATE SCHEMA flagging;

-- Mixed case on purpose: readers and writers cast to it by this name.
CREATE TYPE flagging."BlacklistReportSource" AS ENUM
    ('Manual', 'WebReport', 'CheatCheck', 'BlacklistedPlayerCascade');

CREATE TABLE flagging.flag_instance (
    instance_id bigint NOT NULL REFERENCES core.instance ON DELETE RESTRICT,
    cheat_check_version text NOT NULL,
    cheat_check_bitmask bigint NOT NULL,
    flagged_at timestamptz DEFAULT now(),
    cheat_probability numeric CHECK (cheat_probability BETWEEN 0 AND 1),
    explanation text,
    PRIMARY KEY (instance_id, cheat_check_version)
);
CREATE INDEX flag_instance_flagged_at_idx ON flagging.flag_instance (flagged_at DESC);

CREATE TABLE flagging.flag_instance_player (
    instance_id bigint NOT NULL,
    membership_id bigint NOT NULL,
    cheat_check_version text NOT NULL,
    cheat_check_bitmask bigint NOT NULL,
    flagged_at timestamptz DEFAULT now(),
    cheat_probability numeric CHECK (cheat_probability BETWEEN 0 AND 1),
    explanation text,
    PRIMARY KEY (instance_id, membership_id, cheat_check_version),
    FOREIGN KEY (instance_id, membership_id) REFERENCES core.instance_player ON DELETE RESTRICT
);
CREATE INDEX flag_instance_player_membership_id_idx
    ON flagging.flag_instance_player (membership_id);
CREATE INDEX flag_instance_player_flagged_at_idx
    ON flagging.flag_instance_player (flagged_at DESC);

CREATE TABLE flagging.blacklist_instance (
    instance_id bigint PRIMARY KEY REFERENCES core.instance ON DELETE RESTRICT,
    report_source flagging."BlacklistReportSource" NOT NULL,
    report_id bigint,
    cheat_check_version text,
    reason text NOT NULL,
    created_at timestamptz DEFAULT now()
);

CREATE TABLE flagging.blacklist_instance_player (
    instance_id bigint NOT NULL REFERENCES flagging.blacklist_instance ON DELETE CASCADE,
    membership_id bigint NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (instance_id, membership_id),
    FOREIGN KEY (instance_id, membership_id) REFERENCES core.instance_player ON DELETE RESTRICT
);
CREATE INDEX blacklist_instance_player_membership_id_idx
    ON flagging.blacklist_instance_player (membership_id);
