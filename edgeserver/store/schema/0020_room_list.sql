-- What a list of rooms is ordered and filtered by, beside the room, so that listing thousands reads no events.

ALTER TABLE rooms ADD COLUMN newest INTEGER NOT NULL DEFAULT 0;          -- stream position of the newest event of its timeline
ALTER TABLE rooms ADD COLUMN bumped INTEGER NOT NULL DEFAULT 0;          -- … and of the newest that is activity (MSC4186, bump_stamp)
ALTER TABLE rooms ADD COLUMN type TEXT;                                  -- of m.room.create: m.space, say
ALTER TABLE rooms ADD COLUMN encrypted INTEGER NOT NULL DEFAULT 0;       -- 1: its current state has m.room.encryption

UPDATE rooms SET
    newest = coalesce((SELECT max(e.stream) FROM events e WHERE e.room = rooms.room AND e.stream > 0), 0),
    bumped = coalesce((
        SELECT max(e.stream) FROM events e WHERE e.room = rooms.room AND e.stream > 0
        AND json_extract(CAST(e.pdu AS TEXT), '$.type') IN
            ('m.room.create', 'm.room.message', 'm.room.encrypted', 'm.sticker', 'm.call.invite', 'm.poll.start', 'm.beacon_info')
    ), 0),
    type = (
        SELECT json_extract(CAST(e.pdu AS TEXT), '$.content.type') FROM events e JOIN state_keys k ON k.key = e.key
        WHERE e.room = rooms.room AND k.type = 'm.room.create' AND k.state_key = '' LIMIT 1
    ),
    encrypted = EXISTS (
        SELECT 1 FROM events e JOIN state_keys k ON k.key = e.key
        WHERE e.room = rooms.room AND k.type = 'm.room.encryption' AND k.state_key = '' AND e.verdict = 0 AND e.before IS NOT NULL
    )
WHERE snapshot IS NOT NULL;
