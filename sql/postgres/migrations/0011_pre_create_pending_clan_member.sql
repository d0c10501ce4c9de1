-- Members of a clan whose players are not known yet: clan.clan_members may only name rows of
-- core.player. Written with the crawl of the clan, turned into members by the crawl of the player.
-- Retention: until the player is known or found not to exist, or the clan is crawled without them.
CREATE TABLE streaming.pending_clan_member (
    group_id bigint NOT NULL,
    membership_id bigint NOT NULL,
    PRIMARY KEY (group_id, membership_id)
);
CREATE INDEX pending_clan_member_player_idx ON streaming.pending_clan_member (membership_id);
