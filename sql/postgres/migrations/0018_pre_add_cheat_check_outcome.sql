-- Why a cheat check said nothing. Rules: docs/domain/queues.md, "Cheat checks".
ALTER TABLE streaming.cheat_check
    ADD COLUMN skipped text,               -- why nothing was checked; null: it was
    ADD COLUMN failed_rules text[] NOT NULL DEFAULT '{}';  -- rules that could not say anything
-- What was checked lately: rows come in that order, so a few ranges of pages hold a week, and an
-- insert costs nothing.
CREATE INDEX cheat_check_checked_at_brin ON streaming.cheat_check
    USING brin (checked_at) WITH (pages_per_range = 32, autosummarize = on);
