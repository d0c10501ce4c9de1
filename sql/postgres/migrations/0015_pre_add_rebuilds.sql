-- What rebuilding ClickHouse by day needs: the raids of a day, and how far a marked day has come.

-- Ids rise with time and so do the pages, so a few ranges of pages hold a day. minmax-multi: the
-- head and an archive of another year may write to the same pages. Costs an insert nothing.
CREATE INDEX instance_date_completed_brin ON core.instance
    USING brin (date_completed timestamptz_minmax_multi_ops)
    WITH (pages_per_range = 32, autosummarize = on);

-- Tables of ClickHouse rebuilt since the day was marked. A new mark empties the list; the day is
-- done (rebuilt_at) when all that have days are in it.
ALTER TABLE streaming.clickhouse_dirty_day ADD COLUMN rebuilt_tables text[] NOT NULL DEFAULT '{}';
