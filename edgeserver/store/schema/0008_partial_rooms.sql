-- Rooms that were joined without all their members (faster joins), and what has to be worked out again once those are known.

-- 1: its members are being fetched; 2: only those are lacking whose servers' keys cannot be had
ALTER TABLE rooms ADD COLUMN partial INTEGER NOT NULL DEFAULT 0;
ALTER TABLE rooms ADD COLUMN whole_since INTEGER NOT NULL DEFAULT 0;    -- stream position at which a partial room became whole
CREATE INDEX rooms_whole_since ON rooms (whole_since) WHERE whole_since > 0;

ALTER TABLE events ADD COLUMN partial INTEGER NOT NULL DEFAULT 0;       -- 1: the states before and after it lack members
CREATE INDEX events_partial ON events (room, depth, tie) WHERE partial = 1;

CREATE TABLE partial_rooms (
    room        INTEGER PRIMARY KEY REFERENCES rooms (room),
    join_event  INTEGER REFERENCES events (event),                      -- the join by which we came in: its state is what is lacking
    via         TEXT NOT NULL,                                          -- the server through which we joined
    servers     TEXT NOT NULL                                           -- JSON array: the servers in the room, as that server told
);
