-- Where a job's submission is in the trace of whoever submitted it, so that its attempts are put below it by
-- whichever server sees them end.

ALTER TABLE jobs
    -- As W3C Trace Context writes it; null where the submission was not traced.
    ADD COLUMN traceparent text;
