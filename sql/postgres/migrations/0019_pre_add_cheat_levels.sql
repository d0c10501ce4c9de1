-- What cheat levels need: messages to webhooks through the outbox, and the counts behind a level.
-- Rules: docs/domain/cheat-levels.md.

-- Kind `webhook`: `destination` is the name of a webhook, never its address, which is a secret;
-- `body` is the JSON to post. Closed rows that nobody took keep their `last_error`.
ALTER TABLE streaming.outbox
    DROP CONSTRAINT outbox_kind_check,
    ADD CONSTRAINT outbox_kind_check CHECK (kind IN ('message', 'clickhouse', 'webhook')),
    ADD COLUMN attempted_at timestamptz,       -- webhook: the last try, by which the rate is kept
    ADD COLUMN next_attempt_at timestamptz;    -- webhook: not before; null: at once
CREATE INDEX outbox_webhook_attempt_idx ON streaming.outbox (destination, attempted_at)
    WHERE kind = 'webhook' AND attempted_at IS NOT NULL;

-- Flags of each player who may get a level, counted by class; written anew by each run of the
-- levels. `sure_*` are those of the same flags that do not rest on generic rules alone.
CREATE TABLE streaming.player_flag_stats (
    membership_id bigint PRIMARY KEY,
    class_a integer NOT NULL,
    class_b integer NOT NULL,
    class_c integer NOT NULL,
    class_d integer NOT NULL,
    sure_a integer NOT NULL,
    sure_b integer NOT NULL,
    sure_c integer NOT NULL,
    sure_d integer NOT NULL,
    flags jsonb NOT NULL,                      -- the heaviest of them, with their numbers
    counted_at timestamptz NOT NULL DEFAULT now()
);

-- Who did what to levels lately: reverts by run or by time, and the report's trend.
CREATE INDEX cheat_level_change_time_idx ON streaming.cheat_level_change (changed_at);
-- Few players have a level, and several steps ask for exactly those.
CREATE INDEX player_cheat_level_idx ON core.player (cheat_level, membership_id)
    WHERE cheat_level > 0;
