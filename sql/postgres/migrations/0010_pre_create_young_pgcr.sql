-- Raids that were fetched so soon after their end that the report may still grow: each is fetched
-- again twice. Written with the raid, read by a chore of the instance_store topic. Rules:
-- docs/domain/storage.md, "Young reports". Retention: a row goes with its last fetch, after 48 h.
CREATE TABLE streaming.young_pgcr (
    instance_id bigint PRIMARY KEY,
    date_completed timestamptz NOT NULL,
    rounds smallint NOT NULL DEFAULT 0,    -- fetches asked for so far
    due_at timestamptz NOT NULL            -- of the next one
);
CREATE INDEX young_pgcr_due_idx ON streaming.young_pgcr (due_at);
