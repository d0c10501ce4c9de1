-- Clears whose report was withdrawn: docs/domain/crawl.md, "Restricted reports".

-- name: read_activity
-- Primary key.
SELECT activity_id FROM definitions.activity_version WHERE hash = %(hash)s;

-- name: count_candidates
-- Index of core.instance on the hash; a person's repair, once in a while.
SELECT count(*),
       count(*) FILTER (WHERE f.instance_id IS NOT NULL AND b.instance_id IS NOT NULL),
       count(*) FILTER (WHERE i.is_whitelisted)
FROM core.instance AS i
LEFT JOIN flagging.flag_instance AS f
    ON f.instance_id = i.instance_id AND f.cheat_check_version = 'manual'
   AND f.cheat_check_bitmask & %(bitmask)s = %(bitmask)s
LEFT JOIN flagging.blacklist_instance AS b ON b.instance_id = i.instance_id
WHERE i.hash = %(hash)s AND i.completed;

-- name: list_candidates
-- As above, ascending. A person who lifts a blacklisting whitelists the instance.
SELECT i.instance_id
FROM core.instance AS i
WHERE i.hash = %(hash)s AND i.completed AND NOT i.is_whitelisted AND i.instance_id > %(after)s
  AND NOT (
      EXISTS (
          SELECT FROM flagging.flag_instance AS f
          WHERE f.instance_id = i.instance_id AND f.cheat_check_version = 'manual'
            AND f.cheat_check_bitmask & %(bitmask)s = %(bitmask)s
      )
      AND EXISTS (SELECT FROM flagging.blacklist_instance AS b WHERE b.instance_id = i.instance_id)
  )
ORDER BY i.instance_id
LIMIT %(limit)s;

-- name: flag
-- Primary keys. Another manual flag of the instance keeps its bits.
INSERT INTO flagging.flag_instance AS f
    (instance_id, cheat_check_version, cheat_check_bitmask, cheat_probability, explanation)
SELECT id, %(version)s, %(bitmask)s, 1, %(reason)s
FROM unnest(%(ids)s::bigint[]) AS id
ORDER BY id
ON CONFLICT (instance_id, cheat_check_version) DO UPDATE SET
    cheat_check_bitmask = f.cheat_check_bitmask | excluded.cheat_check_bitmask,
    cheat_probability = 1,
    explanation = coalesce(f.explanation, excluded.explanation);

-- name: blacklist
-- Primary key. What somebody blacklisted before keeps its reason.
INSERT INTO flagging.blacklist_instance
    (instance_id, report_source, cheat_check_version, reason)
SELECT id, 'Manual', %(version)s, %(reason)s
FROM unnest(%(ids)s::bigint[]) AS id
ORDER BY id
ON CONFLICT (instance_id) DO NOTHING;
