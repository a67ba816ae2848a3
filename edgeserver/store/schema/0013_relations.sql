-- Which event relates to which: one row for each event of the timeline that has a relation and is not redacted. The parent need not be
-- held. Rows of one parent lie together in the order of the timeline, so an event without relations costs one look into this tree.
CREATE TABLE relations (
    room        INTEGER NOT NULL REFERENCES rooms (room),
    parent      TEXT NOT NULL,                             -- event id
    depth       INTEGER NOT NULL,                          -- the child's place, as in events
    tie         INTEGER NOT NULL,
    event       INTEGER NOT NULL REFERENCES events (event),-- the child
    rel_type    TEXT NOT NULL,                             -- m.annotation, m.reference, m.replace, m.thread, …
    sender      TEXT NOT NULL,                             -- the child's
    PRIMARY KEY (room, parent, depth, tie, event)
) WITHOUT ROWID;
-- A room's threads by their newest replies
CREATE INDEX relations_of_threads ON relations (room, depth, tie) WHERE rel_type = 'm.thread';

INSERT INTO relations (room, parent, depth, tie, event, rel_type, sender)
WITH related (event, room, depth, tie, pdu) AS (
    SELECT event, room, depth, tie, CASE WHEN json_valid(CAST(pdu AS TEXT)) THEN CAST(pdu AS TEXT) ELSE '{}' END
    FROM events WHERE stream IS NOT NULL AND redacted_by IS NULL AND instr(pdu, CAST('"m.relates_to"' AS BLOB))
), read (event, room, depth, tie, sender, parent, rel_type) AS (
    SELECT event, room, depth, tie, json_extract(pdu, '$.sender'),
        CASE json_type(pdu, '$.content."m.relates_to".event_id') WHEN 'text' THEN json_extract(pdu, '$.content."m.relates_to".event_id') END,
        CASE json_type(pdu, '$.content."m.relates_to".rel_type') WHEN 'text' THEN json_extract(pdu, '$.content."m.relates_to".rel_type') END
    FROM related
)
SELECT room, parent, depth, tie, event, rel_type, sender FROM read
WHERE parent GLOB '$*' AND length(CAST(parent AS BLOB)) <= 255 AND parent NOT GLOB '*[^ -~]*' AND instr(CAST(parent AS BLOB), x'00') = 0
    AND length(CAST(rel_type AS BLOB)) BETWEEN 1 AND 255 AND rel_type NOT GLOB '*[^ -~]*' AND instr(CAST(rel_type AS BLOB), x'00') = 0;

-- Threads that a user follows or has followed (MSC4306). Rows of one thread lie together: a message in it looks up who follows it.
CREATE TABLE thread_subscriptions (
    room        INTEGER NOT NULL REFERENCES rooms (room),
    root        TEXT NOT NULL,                             -- event id
    user_id     TEXT NOT NULL,
    automatic   INTEGER,                                   -- 1 made by a client by itself, 0 by the user; NULL: not subscribed any more
    depth       INTEGER,                                   -- of one that has ended: the room's greatest depth then
    stream      INTEGER NOT NULL,                          -- when this row last changed
    PRIMARY KEY (room, root, user_id)
) WITHOUT ROWID;
CREATE INDEX thread_subscriptions_by_stream ON thread_subscriptions (user_id, stream);
