DROP VIEW IF EXISTS weapon_meta_by_hour_mv;
DROP TABLE IF EXISTS weapon_meta_by_hour;
