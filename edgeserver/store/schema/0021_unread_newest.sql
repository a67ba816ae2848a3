-- When unread events were counted last, so that a sync tells of counts that grew by an event which it does not show.

ALTER TABLE unread ADD COLUMN newest INTEGER NOT NULL DEFAULT 0;         -- stream position of the newest event added since the last receipt
