-- What people ask of a list: what Layer showed when it was read last (JSON, by fingerprints), and when that was.
ALTER TABLE businesses ADD COLUMN shown TEXT;
ALTER TABLE businesses ADD COLUMN shown_at BIGINT;
-- What happened to a business or an Item, told once it has happened. Ids are in the order of their times.
CREATE TABLE history (
    id TEXT PRIMARY KEY,
    -- `item/ID` or `business/ID`; of an erased one, its fingerprint in place of the id.
    subject TEXT NOT NULL,
    at BIGINT NOT NULL,
    what TEXT NOT NULL,
    -- JSON.
    detail TEXT NOT NULL,
    trace TEXT
);
CREATE INDEX history_subject ON history (subject, id);
-- People know an account by the last digits of its number.
CREATE INDEX accounts_mask ON accounts (mask) WHERE mask IS NOT NULL;
CREATE INDEX access_tokens_fingerprint ON access_tokens (fingerprint);
