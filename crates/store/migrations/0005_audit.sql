-- An act is told with where it came from and what was so before and after it (JSON). Entries of earlier releases stay as they
-- are: their subject is the bare id. To rewrite a large audit would keep every push waiting.
ALTER TABLE audit ADD COLUMN remote TEXT;
ALTER TABLE audit ADD COLUMN was TEXT;
ALTER TABLE audit ADD COLUMN became TEXT;
CREATE INDEX audit_subject ON audit (subject, id);
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_at ON audit (at);
-- Whom an entry names besides its subject, so that an erased id is found there without reading all of them.
CREATE TABLE audit_mentions (
    subject TEXT NOT NULL,
    audit_id TEXT NOT NULL,
    PRIMARY KEY (subject, audit_id)
);
CREATE INDEX audit_mentions_entry ON audit_mentions (audit_id);

CREATE INDEX unknown_items_last_seen ON unknown_items (last_seen);
