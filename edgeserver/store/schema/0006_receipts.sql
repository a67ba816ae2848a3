-- Read receipts, and what of each room a user of this server has not read.

CREATE TABLE receipts (
    room        INTEGER NOT NULL REFERENCES rooms (room),
    user_id     TEXT NOT NULL,
    type        TEXT NOT NULL,                             -- m.read, m.read.private
    thread      TEXT NOT NULL,                             -- '': unthreaded; main; or a thread root's event id
    event_id    TEXT NOT NULL,
    place       INTEGER,                                   -- stream position of that event; NULL: it is not in our timeline
    ts          INTEGER NOT NULL,                          -- ms
    stream      INTEGER NOT NULL,                          -- when this row last changed
    PRIMARY KEY (room, user_id, type, thread)
) WITHOUT ROWID;
CREATE INDEX receipts_by_stream ON receipts (stream);

-- Counts since the user's receipt. Rows of one room lie together, so that a message touches one page however many users it notifies.
CREATE TABLE unread (
    room          INTEGER NOT NULL REFERENCES rooms (room),
    user_id       TEXT NOT NULL,
    thread        TEXT NOT NULL,                           -- main, or a thread root's event id
    notifications INTEGER NOT NULL,
    highlights    INTEGER NOT NULL,
    PRIMARY KEY (room, user_id, thread)
) WITHOUT ROWID;
