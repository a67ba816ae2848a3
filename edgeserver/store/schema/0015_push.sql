-- Delivery to push gateways, and the topics of phones that listen here (UnifiedPush)

ALTER TABLE pushers ADD COLUMN set_at INTEGER NOT NULL DEFAULT 0;     -- s: when it was set last
ALTER TABLE pushers ADD COLUMN enabled INTEGER NOT NULL DEFAULT 1;
ALTER TABLE pushers ADD COLUMN position INTEGER NOT NULL DEFAULT 0;   -- stream position up to which its gateway has been told; written late
UPDATE pushers SET position = (SELECT coalesce(max(stream), 0) FROM events);

CREATE TABLE topics (
    topic         TEXT PRIMARY KEY,                        -- its name is the secret
    created_at    INTEGER NOT NULL,                        -- s
    subscribed_at INTEGER                                  -- s, to the day; NULL: nobody has ever listened
) WITHOUT ROWID;

CREATE TABLE topic_messages (
    message     INTEGER PRIMARY KEY,                       -- grows; what clients know as its id is this number in base 62
    topic       TEXT NOT NULL,
    subject     TEXT,                                      -- a newer message about the same replaces it in time; NULL: about nothing else
    expires     INTEGER NOT NULL,                          -- s
    body        BLOB NOT NULL                              -- JSON, as subscribers get it
);
CREATE INDEX topic_messages_by_topic ON topic_messages (topic, message);
CREATE INDEX topic_messages_by_expiry ON topic_messages (expires);
