-- What Plaid said of an Item beside its accounts, and which webhooks about it came.
CREATE TABLE plaid_views (
    item_id TEXT PRIMARY KEY,
    institution TEXT,
    webhook_url TEXT,
    -- They go elsewhere than the settings say.
    elsewhere BIGINT NOT NULL DEFAULT 0,
    -- When its consent ends, and the end that the platform was told of.
    consent_until BIGINT,
    consent_told BIGINT,
    -- The last webhook that Plaid says it sent.
    sent_at BIGINT,
    sent_code TEXT,
    -- The last one that came.
    heard_at BIGINT,
    heard_type TEXT,
    heard_code TEXT,
    -- Webhooks that were sent before are not missed: nobody here knew the Item, or an operator has looked.
    missed_from BIGINT NOT NULL,
    -- Null: only heard of.
    read_at BIGINT
);
-- The same one may have come up to a minute earlier, by another clock. Queries say it in the same words.
CREATE INDEX plaid_views_missed ON plaid_views (item_id) WHERE sent_at > missed_from
    AND sent_at > COALESCE(heard_at, 0) + CASE WHEN heard_code = sent_code THEN 60000 ELSE 0 END;
CREATE INDEX plaid_views_consent ON plaid_views (consent_until) WHERE consent_until IS NOT NULL;
CREATE INDEX plaid_views_elsewhere ON plaid_views (item_id) WHERE elsewhere = 1;

-- What an operator decided of a token at Layer that nobody here knows, by its fingerprint: keep or remove.
CREATE TABLE token_words (
    business_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    word TEXT NOT NULL,
    at BIGINT NOT NULL,
    said_by TEXT NOT NULL,
    PRIMARY KEY (business_id, fingerprint)
);

-- An operator keeps its list from being sent: why, and since when.
ALTER TABLE businesses ADD COLUMN kept_back TEXT;
ALTER TABLE businesses ADD COLUMN kept_back_at BIGINT;
CREATE INDEX businesses_kept_back ON businesses (business_id) WHERE kept_back IS NOT NULL;

-- What the guard that holds a row objects to, and what an operator's release permits: guards, accounts, fingerprints.
ALTER TABLE work ADD COLUMN blocked_objection TEXT;
ALTER TABLE work ADD COLUMN permits TEXT;
-- Since when it is this that blocks it, in these words: an order for all of a cause is about what was said before.
ALTER TABLE work ADD COLUMN said_at BIGINT;
UPDATE work SET said_at = blocked_at WHERE blocked_at IS NOT NULL;
-- What one cause keeps. Queries say it in the same words.
CREATE INDEX work_causes ON work (blocked_code, kind, id) WHERE blocked_by IN ('hold', 'parked');
CREATE INDEX accounts_refused_code ON accounts (mint_code, item_id) WHERE mint_fault IS NOT NULL;

-- The operator who paused the provider: no probe ends that.
ALTER TABLE pauses ADD COLUMN ordered_by TEXT;

-- What nobody could read, until somebody has looked: webhooks, and records with their place.
CREATE TABLE dead_letters (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    told_by TEXT NOT NULL,
    topic TEXT,
    part BIGINT,
    position BIGINT,
    reason TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    -- When somebody had looked. Kept as long as the others, or the same record, read again, would be back.
    dismissed_at BIGINT
);
CREATE INDEX dead_letters_at ON dead_letters (at);
CREATE INDEX dead_letters_open ON dead_letters (id) WHERE dismissed_at IS NULL;

-- Somebody asks what a reconciliation of a business would do now. A consumer answers: it alone asks Plaid and Layer.
CREATE TABLE plans (
    id TEXT PRIMARY KEY,
    business_id TEXT NOT NULL,
    asked_at BIGINT NOT NULL,
    class BIGINT NOT NULL,
    -- A consumer works on it until then.
    taken_until BIGINT,
    answered_at BIGINT,
    -- JSON.
    answer TEXT
);
CREATE INDEX plans_asked ON plans (asked_at);
CREATE INDEX plans_business ON plans (business_id);

-- Outcomes stand among what else happened: all of them in their order, and those of one type. Queries say it in the same words.
CREATE INDEX history_outcomes ON history (id) WHERE what <> 'rekey.reconciled';
CREATE INDEX history_what ON history (what, id) WHERE what <> 'rekey.reconciled';

-- Who is about to take an Item's place.
CREATE INDEX items_replaces ON items (replaces) WHERE replaces IS NOT NULL;

-- An operator's order for every row that is kept for one cause, and how far it is. Consoles work it off.
CREATE TABLE batches (
    id TEXT PRIMARY KEY,
    code TEXT NOT NULL,
    reason TEXT,
    ordered_by TEXT NOT NULL,
    ordered_from TEXT NOT NULL,
    ordered_at BIGINT NOT NULL,
    -- What is said of a row since later is not meant: nobody had seen it.
    seen_at BIGINT NOT NULL,
    state TEXT NOT NULL,
    ended_at BIGINT,
    cancelled_by TEXT,
    -- Rows that were kept for the cause when it was ordered.
    meant BIGINT NOT NULL,
    released BIGINT NOT NULL DEFAULT 0,
    -- Left alone, because their provider is paused, an operator holds them as well, or it did not work.
    paused BIGINT NOT NULL DEFAULT 0,
    held BIGINT NOT NULL DEFAULT 0,
    failed BIGINT NOT NULL DEFAULT 0,
    -- The last row that was looked at, while it runs.
    position TEXT,
    -- Whoever works on it: each has another epoch, and nobody else begins until then.
    epoch BIGINT NOT NULL DEFAULT 0,
    taken_until BIGINT,
    -- When it was worked on last: the one that waits longest is next.
    moved_at BIGINT NOT NULL
);
-- One of a cause at a time.
CREATE UNIQUE INDEX batches_running ON batches (code) WHERE state = 'running';
CREATE INDEX batches_ended ON batches (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX batches_seen ON batches (code, seen_at);

-- Since when Plaid refuses this mint with this code.
ALTER TABLE accounts ADD COLUMN mint_refused_at BIGINT;
