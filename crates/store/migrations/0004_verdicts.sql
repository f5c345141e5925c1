-- How each business and Item stands, written by whatever changes what it is made of; so lists can be filtered by it and
-- counts stand on an index.
CREATE TABLE verdicts (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    state TEXT NOT NULL,
    waits_on TEXT NOT NULL,
    since BIGINT NOT NULL,
    -- The state that an outcome told of last.
    told TEXT,
    -- How many there were: their order, for whoever reads them.
    told_times BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, id)
);
CREATE INDEX verdicts_state ON verdicts (kind, state, id);
CREATE INDEX verdicts_risk ON verdicts (kind, state, waits_on, since) WHERE state NOT IN ('converged', 'empty', 'gone');
-- Unknown since the earlier release's last look at anything: since they were made would alarm as if they had waited for years.
-- Told to be right, so that those that are not are told of, and no upgrade sends a record for each of a million businesses.
INSERT INTO verdicts (kind, id, state, waits_on, since, told)
    SELECT 'business', business_id, 'unknown', 'nobody', COALESCE((SELECT MAX(looked_at) FROM work), created_at), 'converged'
    FROM businesses;
INSERT INTO verdicts (kind, id, state, waits_on, since)
    SELECT 'item', item_id, 'unknown', 'nobody', COALESCE((SELECT MAX(looked_at) FROM work), created_at) FROM items;
CREATE INDEX items_business ON items (business_id);

-- Words decide, sentences are for people.
ALTER TABLE items ADD COLUMN cause TEXT;
UPDATE items SET cause = 'removed_by_platform' WHERE state = 'removed' AND state_why = 'removed by the platform';
UPDATE items SET cause = 'gone_at_plaid' WHERE state = 'removed' AND cause IS NULL;
UPDATE items SET cause = 'consent_withdrawn' WHERE state = 'revoked';
-- When Plaid said for the first time that there is no such Item; the second time, set apart, it is believed.
ALTER TABLE items ADD COLUMN doubted_at BIGINT;
ALTER TABLE items ADD COLUMN read_at BIGINT;
UPDATE items SET read_at = created_at WHERE EXISTS (SELECT 1 FROM accounts a WHERE a.item_id = items.item_id);
ALTER TABLE access_tokens ADD COLUMN cause TEXT;
-- When what was pushed with the current token was refused.
ALTER TABLE access_tokens ADD COLUMN refused_at BIGINT;
CREATE INDEX access_tokens_rejected ON access_tokens (judged_at) WHERE standing = 'rejected';
UPDATE access_tokens SET cause = 'word_holds'
    WHERE why = 'a newer access token was proved; what was pushed with this one holds';
UPDATE access_tokens SET cause = 'consent_withdrawn'
    WHERE why = 'Plaid answers that the user withdrew consent from the Item behind this access token';
UPDATE access_tokens SET cause = 'gone_at_plaid' WHERE why = 'Plaid answers that the Item behind this access token is gone';

-- A refused mint is asked for again, ever more slowly: how often it was refused, and when it is due again.
ALTER TABLE accounts ADD COLUMN mint_refused TEXT;
ALTER TABLE accounts ADD COLUMN mint_code TEXT;
ALTER TABLE accounts ADD COLUMN mint_tries BIGINT;
ALTER TABLE accounts ADD COLUMN mint_again_at BIGINT;
UPDATE accounts SET mint_refused = CASE WHEN mint_fault LIKE 'INVALID_ACCOUNT_ID%' THEN 'unknown_account' ELSE 'other' END,
    mint_code = CASE WHEN mint_fault LIKE 'INVALID_ACCOUNT_ID%' THEN 'INVALID_ACCOUNT_ID' ELSE 'other' END,
    mint_tries = 0, mint_again_at = 0 WHERE mint_fault IS NOT NULL;
-- Sentences that earlier releases wrote.
UPDATE accounts SET outside = CASE
    WHEN outside LIKE '%account filter%' THEN 'filtered' WHEN outside LIKE 'no business%' THEN 'nowhere'
    WHEN outside LIKE '%appeared later%' THEN 'late' ELSE 'ineligible' END WHERE outside IS NOT NULL;
CREATE INDEX accounts_refused ON accounts (item_id) WHERE mint_fault IS NOT NULL;

-- Accounts that the last list showed as archived, and that are left out for that: a JSON array of ids.
ALTER TABLE businesses ADD COLUMN archived TEXT;
