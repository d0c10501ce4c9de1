DROP TABLE IF EXISTS instance_staging;
DROP TABLE IF EXISTS instance;
