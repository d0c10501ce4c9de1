-- What clears of an activity and version usually look like, for the cheat rules of activities that
-- have no table of their own. Written whole once a day by the asset activity_norm. Rules:
-- docs/domain/cheat-detection.md, "Generic rules".
CREATE TABLE streaming.activity_norm (
    activity_id integer NOT NULL,
    version_id integer NOT NULL,
    fresh boolean NOT NULL,                -- false: checkpoint, or unknown
    clears bigint NOT NULL,                -- that there are
    low_kills integer,                     -- of a team; null: too few clears
    quick_seconds double precision,        -- of a fresh clear; null: too few
    computed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (activity_id, version_id, fresh)
);
