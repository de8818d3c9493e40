-- Logs of attempts that have ended: packed into segments, and removed when their time is over.

ALTER TABLE log_chunks
    ADD COLUMN encoding text NOT NULL DEFAULT 'plain' CHECK (encoding IN ('plain', 'zstd')),
    -- Bytes of the payload once decoded; null in rows from before it was kept.
    ADD COLUMN plain_bytes integer CHECK (plain_bytes >= 0),
    ADD CHECK (encoding = 'plain' OR plain_bytes IS NOT NULL);
-- What is compressed already is not tried a second time.
ALTER TABLE log_chunks ALTER COLUMN payload SET STORAGE EXTERNAL;

ALTER TABLE attempts
    -- chunked: as it was received. archived: in segments, or too little to be worth one.
    ADD COLUMN log_state text NOT NULL DEFAULT 'chunked'
        CHECK (log_state IN ('chunked', 'archived', 'removing', 'removed')),
    ADD COLUMN log_removed_at timestamptz,
    -- Until then some replica archives or removes it, or it is not tried again yet.
    ADD COLUMN log_work_after timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN log_work_failures integer NOT NULL DEFAULT 0,
    ADD CHECK ((log_removed_at IS NOT NULL) = (log_state IN ('removing', 'removed')));
CREATE INDEX attempts_log_work ON attempts (log_state, log_work_after)
    WHERE state IN ('finished', 'lost') AND log_state IN ('chunked', 'removing');
CREATE INDEX attempts_log_expiry ON attempts (finished_at) WHERE log_state IN ('chunked', 'archived');
CREATE INDEX jobs_finished ON jobs (finished_at) WHERE finished_at IS NOT NULL;

-- Chunks of an attempt in one piece: a zstd frame of their plain payloads, one after the other, which
-- is an encoded hodei.v1.StreamLogsResponse again. Whatever range is here is not in log_chunks.
CREATE TABLE log_segments (
    job_id         uuid NOT NULL,
    epoch          integer NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence  bigint NOT NULL CHECK (last_sequence >= first_sequence),
    plain_bytes    integer NOT NULL CHECK (plain_bytes > 0),
    stored_bytes   integer NOT NULL CHECK (stored_bytes > 0),
    -- SHA-256 of the plain bytes: the same whichever build compressed them.
    checksum       bytea NOT NULL CHECK (octet_length(checksum) = 32),
    -- The bytes themselves, or the object that holds them: URL of the store, and name in it.
    payload        bytea,
    store          text,
    object         text,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, epoch, first_sequence),
    -- No cascade: the row is all that is known of the object.
    FOREIGN KEY (job_id, epoch) REFERENCES attempts (job_id, epoch),
    CHECK ((payload IS NULL) = (object IS NOT NULL)),
    CHECK ((store IS NULL) = (object IS NULL))
);
ALTER TABLE log_segments ALTER COLUMN payload SET STORAGE EXTERNAL;
