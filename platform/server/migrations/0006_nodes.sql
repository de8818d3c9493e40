-- Where a worker is, so that the next attempt of its job is rather put elsewhere when it is lost there.

ALTER TABLE workers ADD COLUMN node text;
