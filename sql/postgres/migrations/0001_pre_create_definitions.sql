-- Schema definitions: what the game calls things. Small tables, loaded by `raidhub seed` and from
-- the manifest; the weapon columns are text because a new weapon type must not stop the load.
-- Rules: docs/domain/schema.md.
CREATE SCHEMA definitions;

CREATE TABLE definitions.activity_definition (
    id integer PRIMARY KEY,
    name text NOT NULL,
    is_sunset boolean NOT NULL DEFAULT false,
    is_raid boolean NOT NULL DEFAULT true,
    path text NOT NULL,                    -- URL slug; both Pantheons share one
    release_date timestamptz(0) NOT NULL,
    -- A day is added to UTC wall time: day arithmetic on timestamptz depends on the session's zone.
    day_one_end timestamptz(0) GENERATED ALWAYS AS (
        (release_date AT TIME ZONE 'UTC' + interval '1 day') AT TIME ZONE 'UTC'
    ) STORED,
    contest_end timestamptz(0),
    week_one_end timestamptz(0),
    milestone_hash bigint,
    splash_path text NOT NULL              -- image slug
);

CREATE TABLE definitions.version_definition (
    id integer PRIMARY KEY,
    name text NOT NULL,
    associated_activity_id integer
        REFERENCES definitions.activity_definition ON UPDATE CASCADE ON DELETE SET NULL,
    path text NOT NULL,
    is_challenge_mode boolean NOT NULL DEFAULT false
);

CREATE TABLE definitions.activity_version (
    hash bigint PRIMARY KEY,
    activity_id integer NOT NULL
        REFERENCES definitions.activity_definition ON UPDATE CASCADE ON DELETE RESTRICT,
    version_id integer NOT NULL
        REFERENCES definitions.version_definition ON UPDATE CASCADE ON DELETE RESTRICT,
    is_world_first boolean NOT NULL DEFAULT false,
    release_date_override timestamptz(0)
);
CREATE INDEX activity_version_activity_id_idx ON definitions.activity_version (activity_id);
CREATE INDEX activity_version_version_id_idx ON definitions.activity_version (version_id);

CREATE TABLE definitions.season (
    id integer PRIMARY KEY,
    short_name text NOT NULL,
    long_name text NOT NULL,
    dlc text NOT NULL,
    start_date timestamptz(0) NOT NULL
);
CREATE INDEX season_start_date_idx ON definitions.season (start_date DESC);

CREATE TABLE definitions.class_definition (
    hash bigint PRIMARY KEY,
    name text NOT NULL
);

CREATE TABLE definitions.weapon_definition (
    hash bigint PRIMARY KEY,
    name text NOT NULL,
    icon_path text NOT NULL,
    weapon_type text NOT NULL,
    element text NOT NULL,
    slot text NOT NULL,
    ammo_type text NOT NULL,
    rarity text NOT NULL
);

CREATE TABLE definitions.activity_feat_definition (
    hash bigint PRIMARY KEY,
    skull_hash bigint NOT NULL,            -- what a report's selected skulls name
    name text NOT NULL,
    name_short text GENERATED ALWAYS AS (
        btrim(regexp_replace(name, '^\s*feat:', '', 'i'))
    ) STORED,
    description text NOT NULL,
    icon_path text NOT NULL,
    description_short text NOT NULL,
    modifier_power_contribution integer NOT NULL,
    created_at timestamptz(3) NOT NULL DEFAULT now()
);

-- Declared immutable although it reads a table: only so may a generated column call it. Edits of
-- seasons therefore reach stored instances only through `raidhub seed`, which rewrites them.
CREATE FUNCTION definitions.get_season(at timestamptz) RETURNS integer
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    RETURN coalesce(
        (SELECT id FROM definitions.season WHERE start_date < at ORDER BY start_date DESC, id DESC LIMIT 1),
        (SELECT id FROM definitions.season ORDER BY start_date, id LIMIT 1),
        1
    );
END
$$;
