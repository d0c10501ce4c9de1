-- Who plays with whom, both directions: shared seconds of each run, doubled for each of the two
-- who completed it. An order per player, not a measure between players. Runs of 50 and more are
-- left out, pairs grow with the square. Has no day and no end: it is rebuilt as a whole.
CREATE TABLE IF NOT EXISTS player_relation_weights_bidirectional (
    membership_id UInt64,
    related_membership_id UInt64,
    weight UInt64
)
ENGINE = SummingMergeTree(weight)
ORDER BY (membership_id, related_membership_id)
SETTINGS non_replicated_deduplication_window = 10000;

CREATE MATERIALIZED VIEW IF NOT EXISTS player_relation_weights_bidirectional_mv
TO player_relation_weights_bidirectional AS
SELECT
    pair.1 AS membership_id,
    pair.2 AS related_membership_id,
    sum(pair.3) AS weight
FROM (
    SELECT arrayJoin(arrayFlatten(arrayMap(
        a -> arrayMap(
            b -> (
                toUInt64(a.membership_id),
                toUInt64(b.membership_id),
                toUInt64(least(a.time_played_seconds, b.time_played_seconds))
                    * (a.completed + 1) * (b.completed + 1)
            ),
            arrayFilter(b -> b.membership_id != a.membership_id, players)
        ),
        players
    ))) AS pair
    FROM instance
    WHERE player_count < 50
)
GROUP BY membership_id, related_membership_id;
