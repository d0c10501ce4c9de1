-- Whether a flag is an old verdict: other rules that count as well looked at the raid later, and what
-- they found is in a flag of theirs, or in none. A person's flag stays. One statement, so that the
-- planner puts it in place.
CREATE FUNCTION streaming.is_superseded(
    flagged bigint, flag_version text, flagged_at timestamptz, prefixes text[]
) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT flag_version <> 'manual' AND EXISTS (
        SELECT FROM streaming.cheat_check AS later
        WHERE later.instance_id = flagged
          AND later.version <> flag_version
          AND later.checked_at > flagged_at
          AND EXISTS (SELECT FROM unnest(prefixes) AS prefix WHERE starts_with(later.version, prefix))
    )
$$;
