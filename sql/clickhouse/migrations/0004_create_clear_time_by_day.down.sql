DROP VIEW IF EXISTS clear_time_by_day_mv;
DROP TABLE IF EXISTS clear_time_by_day;
