-- How far the sweep of a gap has come, so that a killed run goes on where it was. Rules:
-- docs/domain/crawl.md, "Recovery".
ALTER TABLE streaming.gap
    -- Ids that were asked for one by one: each is resolved or has its row in missed_pgcr.
    ADD COLUMN swept int8multirange NOT NULL DEFAULT '{}',
    ADD COLUMN position bigint,            -- first id that this round has not dealt with; null: none yet
    ADD COLUMN rounds integer NOT NULL DEFAULT 0,
    ADD COLUMN swept_at timestamptz;       -- end of the last round
