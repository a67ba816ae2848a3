-- Rooms, events, room state, memberships and the outbox.
-- Rows that a client or a follower can miss carry `stream`, a position of the one global stream (store/database.py).

CREATE TABLE rooms (
    room        INTEGER PRIMARY KEY,
    room_id     TEXT NOT NULL UNIQUE,
    version     TEXT NOT NULL,
    snapshot    INTEGER REFERENCES snapshots (snapshot),   -- current (resolved) state; NULL: nothing but an invite or a knock is known
    heads       TEXT NOT NULL DEFAULT '[]',                -- forward extremities: JSON array of event ids
    published   INTEGER NOT NULL DEFAULT 0                 -- in the public room directory
);

CREATE TABLE events (
    event       INTEGER PRIMARY KEY,                       -- numeric id, in order of storing
    event_id    TEXT NOT NULL UNIQUE,
    room        INTEGER NOT NULL REFERENCES rooms (room),
    stream      INTEGER,                                   -- place in the timeline: >0 as it arrived, <0 backfilled; NULL: not in the timeline
    depth       INTEGER NOT NULL,
    tie         INTEGER NOT NULL,                          -- orders events of the same depth: the same number on every box
    key         INTEGER REFERENCES state_keys (key),       -- NULL: not a state event
    before      INTEGER REFERENCES snapshots (snapshot),   -- state before the event; NULL: not known (outlier)
    after       INTEGER REFERENCES snapshots (snapshot),   -- state after it; the same unless it is an accepted state event
    verdict     INTEGER NOT NULL DEFAULT 0,                -- 0 accepted, 1 soft-failed, 2 rejected
    redacted_by TEXT,                                      -- event id of the redaction that was applied
    pdu         BLOB NOT NULL                              -- canonical JSON as signed (redacted once redacted_by is set)
);
CREATE UNIQUE INDEX events_by_stream ON events (stream, room) WHERE stream IS NOT NULL;
CREATE INDEX events_by_room ON events (room, stream) WHERE stream IS NOT NULL;
CREATE INDEX events_by_depth ON events (room, depth, tie) WHERE stream IS NOT NULL;

-- prev events that some held timeline event names and that are not held: where history has its gaps
CREATE TABLE gaps (
    room        INTEGER NOT NULL REFERENCES rooms (room),
    missing     TEXT NOT NULL,                             -- the event id that is not held
    event       INTEGER NOT NULL REFERENCES events (event),-- the held event that names it
    PRIMARY KEY (room, missing, event)
) WITHOUT ROWID;

-- redactions that came before the event that they redact
CREATE TABLE pending_redactions (
    redacts     TEXT NOT NULL,
    event       INTEGER NOT NULL REFERENCES events (event),
    PRIMARY KEY (redacts, event)
) WITHOUT ROWID;

CREATE TABLE state_keys (
    key         INTEGER PRIMARY KEY,
    type        TEXT NOT NULL,
    state_key   TEXT NOT NULL,
    UNIQUE (type, state_key)
);

-- A snapshot is a whole state map, stored as the difference to `base`. `base` is a skew-binary jump ancestor (Myers 1983), so that the
-- chain of bases is at most logarithmic in `height` and one more snapshot costs a logarithmic number of entries, whatever the room's size.
CREATE TABLE snapshots (
    snapshot    INTEGER PRIMARY KEY,
    room        INTEGER NOT NULL REFERENCES rooms (room),
    parent      INTEGER REFERENCES snapshots (snapshot),
    base        INTEGER REFERENCES snapshots (snapshot),
    height      INTEGER NOT NULL
);
CREATE INDEX snapshots_by_room ON snapshots (room);
CREATE TABLE snapshot_entries (
    snapshot    INTEGER NOT NULL REFERENCES snapshots (snapshot),
    key         INTEGER NOT NULL REFERENCES state_keys (key),
    event       INTEGER REFERENCES events (event),         -- NULL: this key is not in the state (any more)
    PRIMARY KEY (snapshot, key)
) WITHOUT ROWID;

-- What is true now of each user in each room, of the current state (or of an invite or knock from outside)
CREATE TABLE memberships (
    user_id     TEXT NOT NULL,
    room        INTEGER NOT NULL REFERENCES rooms (room),
    membership  TEXT NOT NULL,                             -- join, invite, knock, leave, ban
    event       INTEGER NOT NULL REFERENCES events (event),
    stream      INTEGER NOT NULL,                          -- when this row last changed
    local       INTEGER NOT NULL,                          -- 1: a user of this server
    forgotten   INTEGER NOT NULL DEFAULT 0,
    stripped    BLOB,                                      -- invite_room_state or knock_room_state: JSON array, for rooms that we are not in
    PRIMARY KEY (user_id, room)
) WITHOUT ROWID;
CREATE INDEX memberships_by_room ON memberships (room, membership);
CREATE INDEX memberships_local ON memberships (room, user_id) WHERE local = 1;
CREATE INDEX memberships_by_stream ON memberships (stream);

-- Servers with joined members, so that a send need not read every member
CREATE TABLE room_servers (
    room        INTEGER NOT NULL REFERENCES rooms (room),
    server_name TEXT NOT NULL,
    joined      INTEGER NOT NULL,
    PRIMARY KEY (room, server_name)
) WITHOUT ROWID;

CREATE TABLE aliases (
    alias       TEXT PRIMARY KEY,
    room_id     TEXT NOT NULL,
    creator     TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX aliases_by_room ON aliases (room_id);

-- Client transaction ids: a repeated PUT answers with the first event id
CREATE TABLE client_transactions (
    user_id     TEXT NOT NULL,
    device_id   TEXT NOT NULL,
    txn_id      TEXT NOT NULL,                             -- with the endpoint's path before it
    event       INTEGER NOT NULL REFERENCES events (event),
    PRIMARY KEY (user_id, device_id, txn_id)
) WITHOUT ROWID;
CREATE INDEX client_transactions_by_event ON client_transactions (event);

-- Where we send to, and what each destination is still to be given
CREATE TABLE destinations (
    destination   INTEGER PRIMARY KEY,
    server_name   TEXT NOT NULL UNIQUE,
    failing_since INTEGER,                                 -- ms; NULL: reachable as far as we know
    retry_at      INTEGER,                                 -- ms; not before then
    attempts      INTEGER NOT NULL DEFAULT 0               -- failed since the last success
);
CREATE TABLE outbox (
    destination INTEGER NOT NULL REFERENCES destinations (destination),
    stream      INTEGER NOT NULL,
    event       INTEGER REFERENCES events (event),         -- a PDU …
    edu_type    TEXT,                                      -- … or an EDU
    edu_key     TEXT,                                      -- a newer EDU with the same type and key replaces an older one
    edu         BLOB,                                      -- content: JSON
    PRIMARY KEY (destination, stream)
) WITHOUT ROWID;
CREATE UNIQUE INDEX outbox_edus ON outbox (destination, edu_type, edu_key) WHERE edu_key IS NOT NULL;

-- Transactions that peers have sent and that we have answered: a repeated one gets the same answer
CREATE TABLE received_transactions (
    origin      TEXT NOT NULL,
    txn_id      TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    response    BLOB NOT NULL,
    PRIMARY KEY (origin, txn_id)
) WITHOUT ROWID;
CREATE INDEX received_transactions_by_age ON received_transactions (received_at);
