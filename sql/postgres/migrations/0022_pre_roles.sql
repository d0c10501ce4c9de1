-- What the role of the writers (docs/domain/schema.md, "Roles") may have done to the boards, although
-- it owns nothing: refreshing and exchanging a materialized view is its owner's right. Each function
-- runs as whoever migrated, takes the name of a board and can touch nothing else; what calls them,
-- and in which order, is in storage/leaderboards.py. Grants are made by `raidhub migrate` at each
-- run, after all migrations: a dump restored without them is whole again after the next one.

CREATE FUNCTION streaming.refresh_leaderboard(board text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Only the first fill locks readers out: of a view that could not be read before.
    EXECUTE format(
        'REFRESH MATERIALIZED VIEW %s leaderboard.%I',
        CASE WHEN (SELECT relispopulated FROM pg_class
                   WHERE oid = format('leaderboard.%I', board)::regclass)
             THEN 'CONCURRENTLY' ELSE '' END,
        board
    );
END
$$;

-- A filled copy of the board in schema streaming, with its indexes and grants as the server knows
-- them, and no others: later tables there get grants of their own by default.
CREATE FUNCTION streaming.build_leaderboard(board text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    present CONSTANT regclass := format('leaderboard.%I', board);
    statement text;
BEGIN
    EXECUTE format('CREATE MATERIALIZED VIEW streaming.%I AS %s WITH NO DATA',
                   board, rtrim(pg_get_viewdef(present), ';'));
    FOREACH statement IN ARRAY
        ARRAY(
            SELECT DISTINCT format('REVOKE ALL ON streaming.%I FROM %s', board, acl.grantee::regrole)
            FROM pg_class AS c, aclexplode(c.relacl) AS acl
            WHERE c.oid = format('streaming.%I', board)::regclass
              AND acl.grantee NOT IN (0, c.relowner)
        ) || ARRAY(
            SELECT replace(pg_get_indexdef(indexrelid), ' ON leaderboard.', ' ON streaming.')
            FROM pg_index WHERE indrelid = present ORDER BY indexrelid
        ) || ARRAY(
            SELECT format('GRANT %s ON streaming.%I TO %s %s', acl.privilege_type, board,
                          CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END,
                          CASE WHEN acl.is_grantable THEN 'WITH GRANT OPTION' ELSE '' END)
            FROM pg_class AS c, aclexplode(c.relacl) AS acl
            WHERE c.oid = present
        )
    LOOP
        EXECUTE statement;
    END LOOP;
    EXECUTE format('REFRESH MATERIALIZED VIEW streaming.%I', board);
    EXECUTE format('ANALYZE streaming.%I', board);
END
$$;

-- Puts the copy in the place of the board.
CREATE FUNCTION streaming.exchange_leaderboard(board text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('DROP MATERIALIZED VIEW leaderboard.%I', board);
    EXECUTE format('ALTER MATERIALIZED VIEW streaming.%I SET SCHEMA leaderboard', board);
END
$$;

-- Drops the copy.
CREATE FUNCTION streaming.drop_leaderboard_copy(board text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('DROP MATERIALIZED VIEW streaming.%I', board);
END
$$;
