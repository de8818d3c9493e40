-- Priorities, retries that clients ask for, and the times that stages are measured from.

ALTER TABLE jobs
    -- As in the specification, for the order of the queue.
    ADD COLUMN priority integer NOT NULL DEFAULT 0 CHECK (priority BETWEEN -1000 AND 1000),
    -- First refusal for a full quota or a provider that gives no answer; null once a worker was created.
    ADD COLUMN refused_since timestamptz;

DROP INDEX jobs_due;
CREATE INDEX jobs_due ON jobs (priority DESC, submitted_at, id) WHERE state = 'queued';

-- When the provider first saw the worker's container run.
ALTER TABLE workers ADD COLUMN running_at timestamptz;

-- A key stands for one retry of one job.
CREATE TABLE job_retries (
    job_id          uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    idempotency_key text NOT NULL,
    -- Epoch of the latest attempt before it.
    after_epoch     integer NOT NULL,
    at              timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, idempotency_key)
);
