-- Schema subscriptions: where and about whom users want to be told. Readers manage its rows, so it
-- exists before the feature that serves them. Rules: docs/domain/schema.md.
CREATE SCHEMA subscriptions;

CREATE TABLE subscriptions.destination (
    id bigserial PRIMARY KEY,
    channel_type text NOT NULL CHECK (channel_type IN ('discord_webhook', 'http_callback')),
    is_active boolean NOT NULL DEFAULT true,
    consecutive_delivery_failures integer NOT NULL DEFAULT 0,
    last_delivery_success_at timestamptz(3),
    last_delivery_failure_at timestamptz(3),
    last_delivery_error text,
    deactivated_at timestamptz(3),
    deactivation_reason text,
    created_at timestamptz(3) NOT NULL DEFAULT now(),
    updated_at timestamptz(3) NOT NULL DEFAULT now()
);

CREATE TABLE subscriptions.discord_destination_config (
    destination_id bigint PRIMARY KEY REFERENCES subscriptions.destination ON DELETE CASCADE,
    guild_id text,
    channel_id text UNIQUE,
    webhook_id text NOT NULL UNIQUE,
    webhook_token text NOT NULL,
    created_at timestamptz(3) NOT NULL DEFAULT now(),
    updated_at timestamptz(3) NOT NULL DEFAULT now()
);

CREATE TABLE subscriptions.http_callback_destination_config (
    destination_id bigint PRIMARY KEY REFERENCES subscriptions.destination ON DELETE CASCADE,
    callback_url text NOT NULL UNIQUE,
    created_at timestamptz(3) NOT NULL DEFAULT now(),
    updated_at timestamptz(3) NOT NULL DEFAULT now()
);

CREATE TABLE subscriptions.rule (
    id bigserial PRIMARY KEY,
    destination_id bigint NOT NULL REFERENCES subscriptions.destination ON DELETE CASCADE,
    scope text NOT NULL,
    membership_id bigint,
    group_id bigint,
    is_active boolean NOT NULL DEFAULT true,
    require_fresh boolean NOT NULL DEFAULT false,
    require_completed boolean NOT NULL DEFAULT false,
    -- 0 = every activity; else bit = activity id for 1-32, bit 33 = 101, bit 34 = 102.
    activity_raid_bitmap bigint NOT NULL DEFAULT 0,
    created_at timestamptz(3) NOT NULL DEFAULT now(),
    updated_at timestamptz(3) NOT NULL DEFAULT now(),
    CHECK (
        (scope = 'player' AND membership_id IS NOT NULL AND group_id IS NULL)
        OR (scope = 'clan' AND group_id IS NOT NULL AND membership_id IS NULL)
    )
);
CREATE UNIQUE INDEX rule_player_destination_idx ON subscriptions.rule (membership_id, destination_id)
    WHERE scope = 'player' AND is_active;
CREATE UNIQUE INDEX rule_clan_destination_idx ON subscriptions.rule (group_id, destination_id)
    WHERE scope = 'clan' AND is_active;
CREATE INDEX rule_destination_id_idx ON subscriptions.rule (destination_id);
