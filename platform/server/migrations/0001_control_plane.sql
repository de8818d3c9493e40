-- The control plane's whole state. Text states are the names of hodei-core's closed machines; all
-- changes of a job's state go through them, one transaction with the row in job_events.
-- Lock order, to exclude deadlocks: jobs, then attempts, then workers.

CREATE TABLE providers (
    name       text PRIMARY KEY,
    kind       text NOT NULL,
    -- 'api': registered by REST, config holds its settings. 'environment': HODEI_K8S_*.
    source     text NOT NULL DEFAULT 'api' CHECK (source IN ('api', 'environment')),
    config     jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE jobs (
    id                      uuid PRIMARY KEY,
    name                    text NOT NULL,
    state                   text NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'cancelling',
                                'succeeded', 'failed', 'cancelled', 'timed_out')),
    version                 bigint NOT NULL DEFAULT 1,
    spec                    jsonb NOT NULL,
    -- One sentence for a person; empty while all is well.
    reason                  text NOT NULL DEFAULT '',
    outcome                 jsonb,
    -- As a shell would show it; null until the job is final, and where nothing was run.
    exit_code               integer,
    idempotency_key         text UNIQUE,
    correlation_id          text NOT NULL,
    -- Epoch of the latest attempt; 0 before the first.
    epoch                   integer NOT NULL DEFAULT 0,
    infrastructure_failures integer NOT NULL DEFAULT 0,
    command_failures        integer NOT NULL DEFAULT 0,
    quota_refusals          integer NOT NULL DEFAULT 0,
    not_before              timestamptz NOT NULL DEFAULT now(),
    queue_deadline          timestamptz NOT NULL,
    submitted_at            timestamptz NOT NULL DEFAULT now(),
    started_at              timestamptz,
    finished_at             timestamptz,
    CHECK ((finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled', 'timed_out')))
);
CREATE INDEX jobs_due ON jobs (not_before, id) WHERE state = 'queued';
CREATE INDEX jobs_queue_deadline ON jobs (queue_deadline) WHERE state = 'queued';
CREATE INDEX jobs_by_state ON jobs (state, id);

CREATE TABLE job_events (
    job_id     uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    version    bigint NOT NULL,
    event      text NOT NULL,
    from_state text,
    to_state   text NOT NULL,
    epoch      integer NOT NULL,
    reason     text NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, version)
);

CREATE TABLE attempts (
    job_id           uuid NOT NULL REFERENCES jobs ON DELETE CASCADE,
    epoch            integer NOT NULL CHECK (epoch > 0),
    worker_id        uuid NOT NULL UNIQUE,
    provider         text NOT NULL,
    state            text NOT NULL CHECK (state IN ('provisioning', 'assigned', 'running', 'finished', 'lost')),
    -- Why it was told to stop, if it was.
    stop             text CHECK (stop IN ('cancelled', 'timed_out')),
    failure_cause    text,
    reason           text NOT NULL DEFAULT '',
    outcome          jsonb,
    exit_code        integer,
    -- Every log frame up to this number is in log_chunks.
    log_sequence     bigint NOT NULL DEFAULT 0,
    startup_deadline timestamptz NOT NULL,
    run_deadline     timestamptz,
    stop_deadline    timestamptz,
    created_at       timestamptz NOT NULL DEFAULT now(),
    started_at       timestamptz,
    finished_at      timestamptz,
    PRIMARY KEY (job_id, epoch)
);
-- No two attempts of a job are ever open at once.
CREATE UNIQUE INDEX attempts_one_open ON attempts (job_id) WHERE state NOT IN ('finished', 'lost');
CREATE INDEX attempts_open ON attempts (startup_deadline) WHERE state NOT IN ('finished', 'lost');

CREATE TABLE workers (
    id               uuid PRIMARY KEY,
    -- Outlives its row in providers: a worker's history stays readable.
    provider         text NOT NULL,
    job_id           uuid NOT NULL,
    epoch            integer NOT NULL,
    state            text NOT NULL CHECK (state IN ('creating', 'connecting', 'ready', 'busy', 'draining',
                         'terminating', 'terminated')),
    -- Hashes only: neither the one-time password nor the session token is ever stored.
    otp_hash         bytea NOT NULL,
    otp_expires_at   timestamptz NOT NULL,
    otp_used_at      timestamptz,
    otp_discarded_at timestamptz,
    session_hash     bytea,
    -- metadata.uid as the agent said it; must be resource_uid once that is known.
    pod_uid          text,
    resource         text,
    resource_uid     text,
    -- Until then some replica may be in the middle of creating it.
    creating_until   timestamptz,
    lease_until      timestamptz,
    destroy_after    timestamptz,
    destroy_failures integer NOT NULL DEFAULT 0,
    reason           text NOT NULL DEFAULT '',
    created_at       timestamptz NOT NULL DEFAULT now(),
    scheduled_at     timestamptz,
    registered_at    timestamptz,
    terminated_at    timestamptz,
    FOREIGN KEY (job_id, epoch) REFERENCES attempts (job_id, epoch) ON DELETE CASCADE
);
CREATE INDEX workers_live ON workers (provider, state) WHERE state <> 'terminated';
CREATE INDEX workers_by_attempt ON workers (job_id, epoch);

-- Encoded hodei.v1.StreamLogsResponse, contiguous within an attempt.
CREATE TABLE log_chunks (
    job_id         uuid NOT NULL,
    epoch          integer NOT NULL,
    first_sequence bigint NOT NULL,
    last_sequence  bigint NOT NULL CHECK (last_sequence >= first_sequence),
    payload        bytea NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (job_id, epoch, first_sequence),
    FOREIGN KEY (job_id, epoch) REFERENCES attempts (job_id, epoch) ON DELETE CASCADE
);

-- What was refused and why. Never holds a secret.
CREATE TABLE audit_events (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    kind      text NOT NULL,
    worker_id uuid,
    job_id    uuid,
    epoch     integer,
    reason    text NOT NULL
);
CREATE INDEX audit_events_by_worker ON audit_events (worker_id);
