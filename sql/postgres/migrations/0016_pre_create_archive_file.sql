-- How far each historical archive was imported; written in the transaction that stores its reports.
-- Rules: docs/domain/archives.md. Retention: for ever, one row a file (about 1700).
CREATE TABLE streaming.archive_file (
    name text PRIMARY KEY,                 -- <from>-<to>, as its partition
    source text NOT NULL,                  -- folder or address it was read from
    version text NOT NULL,                 -- of the file; another one starts over
    state text NOT NULL DEFAULT 'reading' CHECK (state IN ('reading', 'done')),
    line bigint NOT NULL DEFAULT 0,        -- lines that are accounted for
    offset_bytes bigint NOT NULL DEFAULT 0,    -- the same in bytes of the decompressed stream
    counts jsonb NOT NULL DEFAULT '{}',    -- lines by outcome; their sum is `line`
    sample bigint[] NOT NULL DEFAULT '{}', -- ids of some raids, for the check that all are stored
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE INDEX archive_file_finished_idx ON streaming.archive_file (finished_at)
    WHERE finished_at IS NOT NULL;

-- Lines that could not be stored. Retention: until their file is read anew.
CREATE TABLE streaming.archive_refusal (
    name text NOT NULL,                    -- of the file
    line bigint NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    instance_id bigint,                    -- when the line tells
    body bytea,                            -- gzip of the line; null for one that is too long
    refused_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, line)
);
