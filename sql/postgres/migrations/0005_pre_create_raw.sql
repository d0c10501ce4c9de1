-- Schema raw: the reports as they came. Rules: docs/domain/schema.md.
CREATE SCHEMA raw;

CREATE TABLE raw.pgcr (
    instance_id bigint PRIMARY KEY,
    data bytea NOT NULL,                   -- gzip of the report's JSON; others may write plain JSON
    date_crawled timestamptz DEFAULT now()
);
