DROP VIEW IF EXISTS player_population_by_hour_mv;
DROP TABLE IF EXISTS player_population_by_hour;
