-- How far a worker's clock is ahead of the server's: its output bears its times. And when it was decided that
-- it goes: what its removal took is counted from there.

ALTER TABLE workers ADD COLUMN clock_offset_ms bigint, ADD COLUMN terminating_at timestamptz;
