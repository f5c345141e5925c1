-- One text for SQLite and PostgreSQL: TEXT and BIGINT only. Times are milliseconds since 1970 in database time,
-- sealed columns are base64 of an AEAD box bound to its table, column and row.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- The work queue: one row per Item and one per business.
CREATE TABLE work (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    due_at BIGINT,
    class BIGINT NOT NULL,
    reason TEXT NOT NULL,
    wanted BIGINT NOT NULL,
    done BIGINT NOT NULL,
    -- The value of wanted at the last event that clears backoff and parking.
    unblocked BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    lease_owner TEXT,
    lease_until BIGINT,
    epoch BIGINT NOT NULL,
    -- 1 from claim to finish: a claim that finds it set takes over from a worker that never gave the row back.
    held BIGINT NOT NULL,
    taken_over BIGINT,
    blocked_by TEXT,
    blocked_code TEXT,
    blocked_why TEXT,
    blocked_at BIGINT,
    permit BIGINT NOT NULL,
    signal_at BIGINT,
    looked_at BIGINT,
    traceparent TEXT,
    PRIMARY KEY (kind, id)
);
CREATE INDEX work_due ON work (kind, due_at);
CREATE INDEX work_blocked ON work (blocked_by, kind, id);

CREATE TABLE items (
    item_id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    state_why TEXT,
    state_since BIGINT NOT NULL,
    business_id TEXT,
    only_listed BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    replaces TEXT,
    created_at BIGINT NOT NULL
);

-- What the push says about single accounts: the filter, and who goes to another business.
CREATE TABLE assignments (
    item_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    business_id TEXT,
    PRIMARY KEY (item_id, account_id)
);

CREATE TABLE access_tokens (
    item_id TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    standing TEXT NOT NULL,
    sealed TEXT,
    source TEXT NOT NULL,
    -- What the push said besides the token, sealed; it holds once the token is proved.
    declaration TEXT,
    why TEXT,
    seen_at BIGINT NOT NULL,
    judged_at BIGINT,
    PRIMARY KEY (item_id, fingerprint)
);
CREATE UNIQUE INDEX access_tokens_current ON access_tokens (item_id) WHERE standing = 'current';

CREATE TABLE accounts (
    item_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    state TEXT NOT NULL,
    business_id TEXT,
    -- The business whose list it must have left, verified, before it enters the one above.
    moving_from TEXT,
    missing_since BIGINT,
    proof TEXT,
    outside TEXT,
    kind TEXT NOT NULL,
    subtype TEXT,
    mask TEXT,
    name TEXT,
    persistent_id TEXT,
    -- Why no token can be minted for this account alone.
    mint_fault TEXT,
    mint_fault_generation BIGINT,
    PRIMARY KEY (item_id, account_id)
);
CREATE INDEX accounts_business ON accounts (business_id);
CREATE INDEX accounts_moving ON accounts (moving_from);
CREATE INDEX accounts_account ON accounts (account_id);

CREATE TABLE processor_tokens (
    id TEXT PRIMARY KEY,
    item_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    state TEXT NOT NULL,
    origin TEXT NOT NULL,
    fingerprint TEXT,
    sealed TEXT,
    epoch BIGINT NOT NULL,
    intended_at BIGINT NOT NULL,
    settled_at BIGINT
);
CREATE UNIQUE INDEX processor_tokens_live ON processor_tokens (item_id, account_id, generation) WHERE state = 'live';
CREATE INDEX processor_tokens_fingerprint ON processor_tokens (fingerprint);
CREATE INDEX processor_tokens_account ON processor_tokens (account_id);

CREATE TABLE businesses (
    business_id TEXT PRIMARY KEY,
    layer_id TEXT UNIQUE,
    -- What Layer needs to create it, sealed: it names people and phone numbers.
    creation TEXT,
    leave_out TEXT NOT NULL,
    -- Fingerprints of the last list that Layer accepted, a JSON array.
    accepted TEXT NOT NULL,
    verified BIGINT NOT NULL,
    converged_at BIGINT,
    listed_at BIGINT,
    put_at BIGINT,
    last_outcome TEXT,
    created_at BIGINT NOT NULL
);

-- Accounts that left a list lately, for the guard over the whole fleet.
CREATE TABLE removals (
    id TEXT PRIMARY KEY,
    business_id TEXT NOT NULL,
    accounts BIGINT NOT NULL,
    at BIGINT NOT NULL
);

CREATE TABLE hints (
    item_id TEXT NOT NULL,
    account_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    said_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    detail TEXT,
    reported BIGINT NOT NULL,
    PRIMARY KEY (item_id, account_id, kind)
);

CREATE TABLE unknown_items (
    item_id TEXT PRIMARY KEY,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    seen BIGINT NOT NULL
);

CREATE TABLE pauses (
    provider TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    since BIGINT NOT NULL,
    probe_at BIGINT NOT NULL
);

CREATE TABLE suspicions (
    provider TEXT NOT NULL,
    fault TEXT NOT NULL,
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    at BIGINT NOT NULL,
    -- 1: it was counted in a pause that ended, and counts for no other.
    spent BIGINT NOT NULL,
    PRIMARY KEY (provider, fault, kind, id)
);

CREATE TABLE outbox (
    id TEXT PRIMARY KEY,
    topic TEXT NOT NULL,
    record_key TEXT NOT NULL,
    record_type TEXT NOT NULL,
    subject TEXT NOT NULL,
    payload TEXT NOT NULL,
    traceparent TEXT,
    created_at BIGINT NOT NULL
);

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL,
    at BIGINT NOT NULL
);
