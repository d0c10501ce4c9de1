-- Schema streaming: the crawl's ledger and the outbox. Ours alone; public readers never see it.
-- No foreign key may point from here at their rows: outside writers delete those freely.
CREATE SCHEMA streaming;

-- One row a crawl. Retention: for ever.
CREATE TABLE streaming.crawl_cursor (
    name text PRIMARY KEY,
    first_id bigint NOT NULL CHECK (first_id > 0),          -- where this ledger begins
    next_id bigint NOT NULL CHECK (next_id >= first_id),    -- next id to lease
    ceiling bigint NOT NULL,                                -- ids from here on are bogus
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- The range ledger. Retention: blocks older than 90 days are merged into ranges.
CREATE TABLE streaming.crawl_block (
    first_id bigint PRIMARY KEY,
    last_id bigint NOT NULL CHECK (last_id >= first_id),
    state text NOT NULL CHECK (state IN ('leased', 'done', 'released')),
    owner text NOT NULL,
    lease_until timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 1,
    leased_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz,
    raids integer NOT NULL DEFAULT 0,      -- published to instance_store
    non_raids integer NOT NULL DEFAULT 0,
    missed integer NOT NULL DEFAULT 0,     -- handed to missed_pgcr
    EXCLUDE USING gist (int8range(first_id, last_id, '[]') WITH &&)
);
CREATE INDEX crawl_block_open_idx ON streaming.crawl_block (lease_until) WHERE state <> 'done';

-- One row an unresolved id. Retention: closed rows 30 days, for reports.
CREATE TABLE streaming.missed_pgcr (
    instance_id bigint PRIMARY KEY,
    state text NOT NULL CHECK (state IN
        ('waiting', 'malformed', 'blocked', 'unknown_hash', 'missing', 'resolved', 'rejected')),
    reason text NOT NULL,
    last_result smallint,                  -- number of the result kind, docs/domain/pgcr.md
    attempts integer NOT NULL DEFAULT 0,
    source text NOT NULL,                  -- atlas, hermes, ingest, ...
    hash bigint,                           -- of unknown activities
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    last_attempt_at timestamptz,
    next_attempt_at timestamptz,           -- null: nobody has to try
    closed_at timestamptz,
    last_error text
);
CREATE INDEX missed_pgcr_due_idx ON streaming.missed_pgcr (next_attempt_at)
    WHERE state IN ('waiting', 'malformed', 'blocked');
CREATE INDEX missed_pgcr_unknown_hash_idx ON streaming.missed_pgcr (hash)
    WHERE state = 'unknown_hash';

-- Ranges that were jumped over. Retention: for ever (few).
CREATE TABLE streaming.gap (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    first_id bigint NOT NULL,
    last_id bigint NOT NULL CHECK (last_id >= first_id),
    reason text NOT NULL,
    detected_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'sweeping', 'done')),
    sampled bigint NOT NULL DEFAULT 0,
    found bigint NOT NULL DEFAULT 0
);

-- Superseded or conflicting bodies. Retention: for ever (few).
CREATE TABLE streaming.pgcr_revision (
    instance_id bigint NOT NULL,
    sha256 bytea NOT NULL,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    data bytea NOT NULL,                   -- gzip, as in raw.pgcr
    state text NOT NULL CHECK (state IN ('superseded', 'conflict')),
    PRIMARY KEY (instance_id, sha256)
);

-- Which sighting (seen, instance_id) each stored identity value came from, so that identity does
-- not depend on arrival order. One sighting a field: a newer one without a name must not block an
-- older one that has it. Retention: as core.player. HOT updates: no index but the key.
CREATE TABLE streaming.player_identity (
    membership_id bigint PRIMARY KEY,
    membership_type_seen timestamptz,
    membership_type_instance_id bigint,
    icon_path_seen timestamptz,
    icon_path_instance_id bigint,
    display_name_seen timestamptz,
    display_name_instance_id bigint,
    global_name_seen timestamptz,
    global_name_instance_id bigint
) WITH (fillfactor = 70);

-- Effects that must still leave. Retention: sent rows 7 days.
CREATE TABLE streaming.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('message', 'clickhouse')),
    destination text NOT NULL,             -- queue, or ClickHouse table
    key bigint NOT NULL,                   -- player, character or instance
    body bytea NOT NULL,                   -- message: as published; clickhouse: zstd of the JSON row
    month date,                            -- clickhouse: month of date_completed, one a batch
    created_at timestamptz NOT NULL DEFAULT now(),
    batch_id uuid,
    sent_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    last_error text
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);
CREATE INDEX outbox_unsent_idx ON streaming.outbox (kind, id) WHERE sent_at IS NULL;
CREATE INDEX outbox_batch_idx ON streaming.outbox (batch_id) WHERE batch_id IS NOT NULL;
CREATE INDEX outbox_sent_idx ON streaming.outbox (sent_at) WHERE sent_at IS NOT NULL;

-- ClickHouse batches, fixed before the first send; the id is the deduplication token.
-- Retention: done rows 7 days.
CREATE TABLE streaming.clickhouse_batch (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    target text NOT NULL,
    row_count integer NOT NULL,
    state text NOT NULL DEFAULT 'fixed' CHECK (state IN ('fixed', 'done', 'unknown')),
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    first_attempt_at timestamptz,
    last_attempt_at timestamptz,
    done_at timestamptz,
    last_error text
);
CREATE INDEX clickhouse_batch_open_idx ON streaming.clickhouse_batch (created_at) WHERE state <> 'done';

-- Stored instances whose ClickHouse row must be replaced (displaced first clears, replaced
-- reports). `revision` is the version of the ReplacingMergeTree; the first insert has 1.
-- Retention: for ever, the next revision counts from here (one row an instance ever corrected).
CREATE TABLE streaming.clickhouse_correction (
    instance_id bigint PRIMARY KEY,
    revision integer NOT NULL CHECK (revision > 1),
    sent_revision integer NOT NULL DEFAULT 1,
    marked_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX clickhouse_correction_open_idx ON streaming.clickhouse_correction (marked_at)
    WHERE sent_revision < revision;

-- Days whose aggregates must be rebuilt. Retention: rebuilt rows 30 days.
CREATE TABLE streaming.clickhouse_dirty_day (
    day date PRIMARY KEY,
    reason text NOT NULL,
    marked_at timestamptz NOT NULL DEFAULT now(),
    rebuilt_at timestamptz
);

-- Ledger of cheat checks, clean passes included. Retention: current and previous version.
CREATE TABLE streaming.cheat_check (
    instance_id bigint NOT NULL,
    version text NOT NULL,
    checked_at timestamptz NOT NULL DEFAULT now(),
    probability numeric NOT NULL CHECK (probability BETWEEN 0 AND 1),
    bitmask bigint NOT NULL,
    flagged_players integer NOT NULL DEFAULT 0,
    PRIMARY KEY (instance_id, version)
);

-- Every change of a cheat level, so that it can be undone. Retention: for ever.
CREATE TABLE streaming.cheat_level_change (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    membership_id bigint NOT NULL,
    old_level smallint NOT NULL,
    new_level smallint NOT NULL,
    reason text NOT NULL,
    actor text NOT NULL,
    evidence jsonb NOT NULL DEFAULT '{}',
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX cheat_level_change_player_idx ON streaming.cheat_level_change (membership_id);

-- Account facts behind cheat levels. Retention: 24 h.
CREATE TABLE streaming.account_factor_cache (
    membership_id bigint PRIMARY KEY,
    fetched_at timestamptz NOT NULL DEFAULT now(),
    factors jsonb NOT NULL,
    chance numeric
);

-- Recently unblocked ids: are the floodgates open? Retention: 1 h.
CREATE TABLE streaming.blocked_success (
    instance_id bigint PRIMARY KEY,
    succeeded_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX blocked_success_time_idx ON streaming.blocked_success (succeeded_at);

-- Small key-value state: availability of each API system, manifest version. Retention: for ever.
CREATE TABLE streaming.api_state (
    key text PRIMARY KEY,
    value jsonb NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
