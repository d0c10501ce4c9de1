-- What learned scores advise people to look at. Advice only: nothing that reads these tables raises
-- a level. Rules: docs/domain/cheat-learning.md.
CREATE TABLE flagging.review_queue (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    membership_id bigint NOT NULL,
    instance_id bigint NOT NULL,
    score double precision NOT NULL CHECK (score BETWEEN 0 AND 1),
    worth double precision NOT NULL CHECK (worth > 0),  -- of a confirmation
    expected_value double precision NOT NULL GENERATED ALWAYS AS (score * worth) STORED,
    reasons jsonb NOT NULL CHECK (jsonb_typeof(reasons) = 'array'),
    model_version text NOT NULL,
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'confirmed', 'dismissed')),
    created_at timestamptz NOT NULL DEFAULT now(),
    decided_at timestamptz,
    decided_by text,
    UNIQUE (membership_id, instance_id),
    -- A corrected report may lose the player, and then there is nothing to look at.
    FOREIGN KEY (instance_id, membership_id) REFERENCES core.instance_player ON DELETE CASCADE,
    CHECK ((state = 'open') = (decided_at IS NULL) AND (state = 'open') = (decided_by IS NULL))
);
CREATE INDEX review_queue_open_idx ON flagging.review_queue (expected_value DESC, id)
    WHERE state = 'open';
CREATE INDEX review_queue_decided_idx ON flagging.review_queue (state, instance_id)
    WHERE state <> 'open';
CREATE INDEX review_queue_instance_idx ON flagging.review_queue (instance_id, membership_id);

-- Trained models; their files lie in CHEAT_MODEL_DIR, and only a file with this digest is opened.
-- Retention: for ever, one row a week.
CREATE TABLE streaming.cheat_model (
    version text PRIMARY KEY,
    digest text NOT NULL,                  -- SHA-256 of the file, in hexadecimal
    feature_schema text[] NOT NULL,        -- what it was made for
    library text NOT NULL,                 -- version of scikit-learn that made it and can read it
    trained_since timestamptz NOT NULL,
    trained_until timestamptz NOT NULL,
    rows integer NOT NULL,
    positives integer NOT NULL,
    negatives integer NOT NULL,
    metrics jsonb NOT NULL,                -- on what was held out
    created_at timestamptz NOT NULL DEFAULT now()
);
