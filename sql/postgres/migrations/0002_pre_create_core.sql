-- Schema core: players, instances and who played in them. Rules: docs/domain/schema.md.
-- No triggers here: outside writers insert counters that must stay as written.
CREATE SCHEMA core;

CREATE TABLE core.player (
    membership_id bigint PRIMARY KEY,
    membership_type integer,
    icon_path text,
    display_name text,
    bungie_global_display_name text,
    bungie_global_display_name_code text,
    bungie_name text GENERATED ALWAYS AS (
        CASE
            WHEN bungie_global_display_name IS NOT NULL AND bungie_global_display_name_code IS NOT NULL
                THEN bungie_global_display_name || '#' || bungie_global_display_name_code
            ELSE display_name
        END
    ) STORED,
    last_seen timestamptz(3) NOT NULL,
    first_seen timestamptz(3) NOT NULL DEFAULT now(),
    clears integer NOT NULL DEFAULT 0,
    fresh_clears integer NOT NULL DEFAULT 0,
    sherpas integer NOT NULL DEFAULT 0,
    total_time_played_seconds integer NOT NULL DEFAULT 0,
    sum_of_best integer,
    last_crawled timestamptz(3),
    wfr_score double precision NOT NULL DEFAULT 0,
    cheat_level smallint NOT NULL DEFAULT 0 CHECK (cheat_level BETWEEN 0 AND 4),
    is_private boolean NOT NULL DEFAULT false,
    is_whitelisted boolean NOT NULL DEFAULT false,
    history_last_crawled timestamptz(3),
    updated_at timestamptz(3) NOT NULL DEFAULT now(),
    -- Doubles every 20 million seconds (231 days). The two limits keep a date from the far future
    -- from failing the write: 2^40 is reached in 2043, numeric(14,4) ends below 10^10.
    _search_score numeric(14, 4) GENERATED ALWAYS AS (
        least(
            sqrt(clears::double precision + 1)
            * power(2::double precision, least(40, greatest(0,
                extract(epoch FROM last_seen - timestamptz '2017-08-27T00:00:00Z')::double precision
            / 20000000)))
            * sqrt(wfr_score + 1),
            9999999999
        )
    ) STORED
);
-- Prefix search: lower(name) LIKE 'abc%' in order of the score.
CREATE INDEX player_bungie_name_search_idx
    ON core.player (lower(bungie_name) text_pattern_ops, _search_score DESC);
CREATE INDEX player_display_name_search_idx
    ON core.player (lower(display_name) text_pattern_ops, _search_score DESC);

CREATE TABLE core.instance (
    instance_id bigint PRIMARY KEY,
    hash bigint NOT NULL REFERENCES definitions.activity_version ON DELETE RESTRICT,
    score integer NOT NULL DEFAULT 0,
    flawless boolean,
    completed boolean NOT NULL,
    fresh boolean,
    player_count integer NOT NULL,
    date_started timestamptz(0) NOT NULL,
    date_completed timestamptz(0) NOT NULL,
    duration integer NOT NULL,
    platform_type integer NOT NULL,
    season_id integer NOT NULL GENERATED ALWAYS AS (definitions.get_season(date_started)) STORED,
    is_whitelisted boolean NOT NULL DEFAULT false,
    skull_hashes bigint[] DEFAULT '{}'     -- writers never store null: readers require an array
);
CREATE INDEX instance_hash_date_completed_idx
    ON core.instance (hash, date_completed) WHERE completed;
CREATE INDEX instance_lowman_flawless_idx
    ON core.instance (hash, player_count, fresh, flawless)
    WHERE completed AND (player_count <= 3 OR flawless);
CREATE INDEX instance_hash_duration_idx
    ON core.instance (hash, duration) WHERE completed AND fresh;
CREATE INDEX instance_hash_score_idx
    ON core.instance (hash, score DESC) WHERE completed AND fresh AND score > 0;

CREATE TABLE core.instance_player (
    instance_id bigint NOT NULL REFERENCES core.instance ON DELETE RESTRICT,
    membership_id bigint NOT NULL REFERENCES core.player ON DELETE RESTRICT,
    completed boolean NOT NULL,
    time_played_seconds integer NOT NULL DEFAULT 0,
    sherpas integer NOT NULL DEFAULT 0,
    is_first_clear boolean NOT NULL DEFAULT false,
    PRIMARY KEY (instance_id, membership_id)
);
CREATE INDEX instance_player_instance_id_idx ON core.instance_player (instance_id);
CREATE INDEX instance_player_membership_id_idx ON core.instance_player (membership_id);
CREATE INDEX instance_player_is_first_clear_idx
    ON core.instance_player (is_first_clear) INCLUDE (instance_id) WHERE is_first_clear;
-- A player's first clear of an activity is found at the same cost however long the history is.
CREATE INDEX instance_player_first_clear_idx
    ON core.instance_player (membership_id) INCLUDE (instance_id) WHERE is_first_clear;

CREATE TABLE core.player_stats (
    membership_id bigint NOT NULL REFERENCES core.player ON DELETE RESTRICT,
    activity_id integer NOT NULL REFERENCES definitions.activity_definition ON DELETE RESTRICT,
    clears integer NOT NULL DEFAULT 0,
    fresh_clears integer NOT NULL DEFAULT 0,
    sherpas integer NOT NULL DEFAULT 0,
    fastest_instance_id bigint REFERENCES core.instance ON UPDATE CASCADE ON DELETE SET NULL,
    total_time_played_seconds integer NOT NULL DEFAULT 0,
    PRIMARY KEY (membership_id, activity_id)
) WITH (fillfactor = 90);  -- counter updates stay on their page: 100 % HOT, against 84 % at 100
-- Without it, deleting an instance scans the table.
CREATE INDEX player_stats_fastest_instance_id_idx ON core.player_stats (fastest_instance_id);
