-- Guests: accounts without a password that may do a part of what others may (client-server API, "Guest access").

ALTER TABLE accounts ADD COLUMN guest INTEGER NOT NULL DEFAULT 0;
