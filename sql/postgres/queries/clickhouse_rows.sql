-- Rows of ClickHouse's `instance`, built from what PostgreSQL holds now.

-- name: read_rows
-- Primary keys throughout; the caller bounds the number of ids.
SELECT json_build_object(
    'instance_id', i.instance_id,
    'hash', i.hash,
    'completed', i.completed::int,
    'player_count', i.player_count,
    'fresh', coalesce(i.fresh::int, 2),
    'flawless', coalesce(i.flawless::int, 2),
    'date_started', to_char(i.date_started AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
    'date_completed', to_char(i.date_completed AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS'),
    'platform_type', greatest(i.platform_type, 0),
    'duration', i.duration,
    'score', i.score,
    'players', coalesce((
        SELECT json_agg(json_build_object(
            'membership_id', p.membership_id,
            'completed', p.completed::int,
            'time_played_seconds', p.time_played_seconds,
            'sherpas', p.sherpas,
            'is_first_clear', p.is_first_clear::int,
            'characters', coalesce((
                SELECT json_agg(json_build_object(
                    'character_id', c.character_id,
                    'class_hash', coalesce(c.class_hash, 0),
                    'emblem_hash', coalesce(c.emblem_hash, 0),
                    'completed', c.completed::int,
                    'score', c.score,
                    'kills', c.kills,
                    'assists', c.assists,
                    'deaths', c.deaths,
                    'precision_kills', c.precision_kills,
                    'super_kills', c.super_kills,
                    'grenade_kills', c.grenade_kills,
                    'melee_kills', c.melee_kills,
                    'time_played_seconds', c.time_played_seconds,
                    'start_seconds', c.start_seconds,
                    'weapons', coalesce((
                        SELECT json_agg(json_build_object(
                            'weapon_hash', w.weapon_hash,
                            'kills', w.kills,
                            'precision_kills', w.precision_kills
                        ) ORDER BY w.weapon_hash)
                        FROM extended.instance_character_weapon AS w
                        WHERE w.instance_id = c.instance_id
                          AND w.membership_id = c.membership_id
                          AND w.character_id = c.character_id
                    ), '[]')
                ) ORDER BY c.character_id)
                FROM extended.instance_character AS c
                WHERE c.instance_id = p.instance_id AND c.membership_id = p.membership_id
            ), '[]')
        ) ORDER BY p.membership_id)
        FROM core.instance_player AS p
        WHERE p.instance_id = i.instance_id
    ), '[]'),
    'revision', 1
)
FROM core.instance AS i
WHERE i.instance_id = ANY(%(instance_ids)s::bigint[])
ORDER BY i.instance_id;
