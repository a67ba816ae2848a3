-- What operators and moderators need: reports, blocked rooms, rooms on their way out, rooms of server notices, registration tokens that
-- count who came in by them.

ALTER TABLE registration_tokens RENAME COLUMN uses_left TO uses_allowed;    -- NULL: any number
ALTER TABLE registration_tokens ADD COLUMN completed INTEGER NOT NULL DEFAULT 0;

CREATE TABLE reports (
    report      INTEGER PRIMARY KEY AUTOINCREMENT,         -- the number of a report that was deleted is never another's
    kind        TEXT NOT NULL,                             -- event, room, user
    user_id     TEXT NOT NULL,                             -- who reports
    target      TEXT NOT NULL,                             -- the event's, the room's or the user's id
    room_id     TEXT,                                      -- of an event or a room
    sender      TEXT,                                      -- of an event
    reason      TEXT NOT NULL,
    score       INTEGER,                                   -- -100 (worst) to 0; clients of before v1.18 give one
    received_at INTEGER NOT NULL,                          -- ms
    UNIQUE (user_id, kind, target)
);
CREATE INDEX reports_by_time ON reports (kind, received_at);

CREATE TABLE blocked_rooms (
    room_id     TEXT PRIMARY KEY,
    blocked_by  TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE room_deletions (
    delete_id    TEXT PRIMARY KEY,
    room_id      TEXT NOT NULL,
    wish         BLOB NOT NULL,                            -- JSON object: who asked for it, and for what
    status       TEXT NOT NULL,                            -- scheduled, active, complete, failed
    error        TEXT,
    outcome      BLOB NOT NULL,                            -- JSON object: shutdown_room as administrators are told of it
    evicted_at   INTEGER,                                  -- ms; from then on nobody of this server is in the room
    finished_at  INTEGER                                   -- ms; it is remembered for a day
) WITHOUT ROWID;
CREATE INDEX room_deletions_by_room ON room_deletions (room_id);

-- The room in which a person is told what the server has to say
CREATE TABLE server_notice_rooms (
    user_id     TEXT PRIMARY KEY,
    room_id     TEXT NOT NULL
) WITHOUT ROWID;
