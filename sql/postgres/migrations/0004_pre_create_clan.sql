-- Schema clan: clans and their known members. Rules: docs/domain/schema.md.
CREATE SCHEMA clan;

CREATE TABLE clan.clan (
    group_id bigint PRIMARY KEY,
    name text NOT NULL,
    motto text NOT NULL,
    call_sign text NOT NULL,
    -- Exactly seven unsigned integers: readers reject a banner with any other key.
    clan_banner_data jsonb NOT NULL CHECK (
        jsonb_typeof(clan_banner_data) = 'object'
        AND clan_banner_data ?& ARRAY[
            'decalId', 'decalColorId', 'decalBackgroundColorId', 'gonfalonId', 'gonfalonColorId',
            'gonfalonDetailId', 'gonfalonDetailColorId']
        AND clan_banner_data - ARRAY[
            'decalId', 'decalColorId', 'decalBackgroundColorId', 'gonfalonId', 'gonfalonColorId',
            'gonfalonDetailId', 'gonfalonDetailColorId'] = '{}'
        AND NOT jsonb_path_exists(clan_banner_data,
            'strict $.* ? (@.type() != "number" || @ < 0 || @ > 4294967295 || @.floor() != @)')
    ),
    updated_at timestamptz(3) NOT NULL DEFAULT now()
);

CREATE TABLE clan.clan_members (
    group_id bigint NOT NULL REFERENCES clan.clan ON DELETE RESTRICT,
    membership_id bigint NOT NULL REFERENCES core.player ON DELETE RESTRICT,
    PRIMARY KEY (group_id, membership_id)
);
CREATE INDEX clan_members_membership_id_idx ON clan.clan_members (membership_id);
