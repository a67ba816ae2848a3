-- Events that peers have sent and that could not be judged at the time, for want of keys or of what they refer to: asked for again
CREATE TABLE late_events (
    event_id    TEXT PRIMARY KEY,
    room        INTEGER NOT NULL REFERENCES rooms (room),
    origin      TEXT NOT NULL,                             -- who sent it
    author      TEXT NOT NULL,                             -- the sender's server
    tries       INTEGER NOT NULL DEFAULT 0,
    retry_at    INTEGER NOT NULL                           -- ms
) WITHOUT ROWID;
CREATE INDEX late_events_by_time ON late_events (retry_at);
CREATE INDEX late_events_by_origin ON late_events (origin);
