-- Withheld reports whose message goes round between pgcr_blocked_retry and pgcr_blocked; the truth
-- about which ids those are, the messages only carry them. Rules: docs/domain/queues.md, "Withheld
-- reports". Retention: closed rows 1 h.
CREATE TABLE streaming.withheld_pgcr (
    instance_id bigint PRIMARY KEY,
    entered_at timestamptz NOT NULL DEFAULT now(),
    returns_at timestamptz NOT NULL,       -- its message is not back before; another one is surplus
    tried_at timestamptz,                  -- last fetch
    closed_at timestamptz                  -- null: still going round
);
-- The oldest and the newest ids that go round; lost messages by the time of their return.
CREATE INDEX withheld_pgcr_open_idx ON streaming.withheld_pgcr (instance_id) WHERE closed_at IS NULL;
CREATE INDEX withheld_pgcr_returns_idx ON streaming.withheld_pgcr (returns_at)
    WHERE closed_at IS NULL;
CREATE INDEX withheld_pgcr_tried_idx ON streaming.withheld_pgcr (tried_at);
CREATE INDEX withheld_pgcr_closed_idx ON streaming.withheld_pgcr (closed_at)
    WHERE closed_at IS NOT NULL;
