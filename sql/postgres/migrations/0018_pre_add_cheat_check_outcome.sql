-- Why a cheat check said nothing. Rules: docs/domain/queues.md, "Cheat checks".
ALTER TABLE streaming.cheat_check
    ADD COLUMN skipped text,               -- why nothing was checked; null: it was
    ADD COLUMN failed_rules text[] NOT NULL DEFAULT '{}';  -- rules that could not say anything
