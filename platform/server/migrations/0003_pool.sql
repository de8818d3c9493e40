-- Pooled workers: they stay when their job has ended, and take the next one.

ALTER TABLE providers
    -- {"minimum", "maximum", "idle_seconds", "maximum_age_seconds"}; null: each worker has one job.
    ADD COLUMN pool jsonb,
    -- Idle workers of the pool that failed, and the last of them: the next is made after a growing pause.
    ADD COLUMN pool_failures integer NOT NULL DEFAULT 0,
    ADD COLUMN pool_failed_at timestamptz;

ALTER TABLE attempts
    -- Its worker was there before it, idle.
    ADD COLUMN warm boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT attempts_worker_id_key;
CREATE INDEX attempts_by_worker ON attempts (worker_id);
-- No worker ever runs two.
CREATE UNIQUE INDEX attempts_one_open_of_worker ON attempts (worker_id) WHERE state NOT IN ('finished', 'lost');

-- job_id and epoch are the worker's latest attempt, which may be over; null before the first. So a job may
-- be deleted once no worker that is not terminated has it for its latest: the cascade takes workers with it.
ALTER TABLE workers
    ALTER COLUMN job_id DROP NOT NULL,
    ALTER COLUMN epoch DROP NOT NULL,
    ADD CHECK ((job_id IS NULL) = (epoch IS NULL)),
    ADD COLUMN pooled boolean NOT NULL DEFAULT false,
    -- It is registered and may be given a job; null at any other time.
    ADD COLUMN idle_since timestamptz,
    ADD CHECK (idle_since IS NULL OR pooled),
    ADD COLUMN jobs_done integer NOT NULL DEFAULT 0,
    -- The stream that speaks for the agent; a stale one, on another server, assigns nothing.
    ADD COLUMN session uuid;
CREATE INDEX workers_of_pools ON workers (provider, idle_since) WHERE pooled AND state <> 'terminated';
