-- What a player did in a completed run, as numbers that can be compared: one row a player and run.
-- {since}, {until}: times in UTC, the latter excluded. {seasons}: when the seasons began, ascending.
-- {begins}, {ends}: windows of known bugs, whose runs say nothing about anybody. Left out besides:
-- teams of 50 and more, runs and players of less than a minute, and saturated counters (32767).

-- name: read_measures
-- By date_completed, the order key. {modulus}: one run in so many, by a hash of its id, so that a
-- second reading gets the same ones; 0 for none. {wanted}: runs besides, whatever their hash.
WITH
    (SELECT groupArray(toUInt32(hash)) FROM weapon_definition WHERE ammo_type = 'Heavy') AS heavy
SELECT
    instance_id,
    membership_id,
    activity_id,
    version_id,
    toUInt16(arrayCount(at -> at < date_started, {seasons:Array(DateTime)})) AS season,
    toUInt8(player_count) AS team_size,
    toUInt8(fresh = 1) AS is_fresh,
    toUInt32(intDiv(toUnixTimestamp(date_completed), 604800)) AS week,
    toUInt8({modulus:UInt32} > 0
        AND cityHash64(instance_id) % greatest({modulus:UInt32}, 1) = 0) AS is_sampled,
    toFloat32(60 * kills / seconds) AS kills_per_minute,
    toFloat32(60 * deaths / seconds) AS deaths_per_minute,
    toFloat32(60 * assists / seconds) AS assists_per_minute,
    toFloat32(60 * super_kills / seconds) AS supers_per_minute,
    toFloat32(60 * grenade_kills / seconds) AS grenades_per_minute,
    toFloat32(60 * melee_kills / seconds) AS melees_per_minute,
    toFloat32(if(kills < 10, nan, precision_kills / kills)) AS precision_share,
    toFloat32(if(kills < 10, nan, (super_kills + grenade_kills + melee_kills) / kills)) AS ability_share,
    toFloat32(player_count * (kills + 1) / (team_kills + player_count)) AS kills_to_team,
    toFloat32(player_count * (deaths + 1) / (team_deaths + player_count)) AS deaths_to_team,
    toFloat32(player_count * (assists + 1) / (team_assists + player_count)) AS assists_to_team,
    toFloat32((kills + 1) / (deaths + 1)) AS kills_per_death,
    toFloat32((assists + 1) / (kills + 1)) AS assists_per_kill,
    toFloat32(seconds / duration) AS time_share,
    toFloat32(team_seconds / duration / player_count) AS team_time_share,
    toFloat32(duration / 60) AS duration_minutes,
    toFloat32(length(arrayDistinct(arrayMap(w -> w.weapon_hash, weapons)))) AS weapons_used,
    toFloat32(if(weapon_kills < 10, nan, arrayMax(w -> w.kills, weapons) / weapon_kills)) AS top_weapon_share,
    toFloat32(if(
        weapon_kills < 10,
        nan,
        arraySum(w -> if(has(heavy, w.weapon_hash), w.kills, 0), weapons) / weapon_kills
    )) AS heavy_share,
    toFloat32(start_seconds / duration) AS start_share
FROM (
    SELECT
        run.instance_id AS instance_id, run.activity_id AS activity_id,
        run.version_id AS version_id, run.date_started AS date_started,
        run.date_completed AS date_completed, run.duration AS duration, run.fresh AS fresh,
        run.player_count AS player_count, run.team_kills AS team_kills,
        run.team_deaths AS team_deaths, run.team_assists AS team_assists,
        run.team_seconds AS team_seconds,
        player.membership_id AS membership_id,
        player.time_played_seconds AS seconds,
        arraySum(c -> c.kills, player.characters) AS kills,
        arraySum(c -> c.deaths, player.characters) AS deaths,
        arraySum(c -> c.assists, player.characters) AS assists,
        arraySum(c -> c.precision_kills, player.characters) AS precision_kills,
        arraySum(c -> c.super_kills, player.characters) AS super_kills,
        arraySum(c -> c.grenade_kills, player.characters) AS grenade_kills,
        arraySum(c -> c.melee_kills, player.characters) AS melee_kills,
        arrayMin(c -> c.start_seconds, player.characters) AS start_seconds,
        arrayFlatten(arrayMap(c -> c.weapons, player.characters)) AS weapons,
        arraySum(w -> w.kills, weapons) AS weapon_kills
    FROM (
        SELECT
            i.instance_id AS instance_id, i.date_started AS date_started,
            i.date_completed AS date_completed, i.duration AS duration, i.fresh AS fresh,
            i.player_count AS player_count, i.players AS players,
            v.activity_id AS activity_id, v.version_id AS version_id,
            arraySum(p -> arraySum(c -> c.kills, p.characters), i.players) AS team_kills,
            arraySum(p -> arraySum(c -> c.deaths, p.characters), i.players) AS team_deaths,
            arraySum(p -> arraySum(c -> c.assists, p.characters), i.players) AS team_assists,
            arraySum(p -> p.time_played_seconds, i.players) AS team_seconds
        FROM instance AS i FINAL
        INNER JOIN activity_version AS v ON v.hash = i.hash
        WHERE i.date_completed >= {since:DateTime} AND i.date_completed < {until:DateTime}
          AND i.completed = 1 AND i.duration >= 60
          AND i.player_count > 0 AND i.player_count < 50
          AND (
              {modulus:UInt32} > 0
                  AND cityHash64(i.instance_id) % greatest({modulus:UInt32}, 1) = 0
              OR i.instance_id IN (SELECT arrayJoin({wanted:Array(Int64)}))
          )
          AND NOT arrayExists(
              (opened, closed) -> i.date_completed > opened AND i.date_started < closed,
              {begins:Array(DateTime)}, {ends:Array(DateTime)}
          )
          AND NOT arrayExists(
              p -> arrayExists(
                  c -> c.time_played_seconds = 32767 OR c.start_seconds = 32767, p.characters
              ),
              i.players
          )
    ) AS run
    ARRAY JOIN run.players AS player
    WHERE player.time_played_seconds >= 60 AND notEmpty(player.characters)
)
ORDER BY instance_id, membership_id
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: count_players
-- Of the same runs, the short stays included: how many rows a reading of all would have at most.
SELECT sum(length(players.membership_id))
FROM instance FINAL
WHERE date_completed >= {since:DateTime} AND date_completed < {until:DateTime}
  AND completed = 1 AND duration >= 60 AND player_count > 0 AND player_count < 50
SETTINGS do_not_merge_across_partitions_select_final = 1;

-- name: count_kept
-- The rows that a reading of all must have, counted without its joins and sums.
SELECT sum(arrayCount(p -> p.time_played_seconds >= 60 AND notEmpty(p.characters), players))
FROM instance FINAL
WHERE date_completed >= {since:DateTime} AND date_completed < {until:DateTime}
  AND completed = 1 AND duration >= 60 AND player_count > 0 AND player_count < 50
  AND hash IN (SELECT hash FROM activity_version)
  AND NOT arrayExists(
      (opened, closed) -> date_completed > opened AND date_started < closed,
      {begins:Array(DateTime)}, {ends:Array(DateTime)}
  )
  AND NOT has(arrayFlatten(players.characters.time_played_seconds), 32767)
  AND NOT has(arrayFlatten(players.characters.start_seconds), 32767)
SETTINGS do_not_merge_across_partitions_select_final = 1;
