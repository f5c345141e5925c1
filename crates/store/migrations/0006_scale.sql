-- What a claim takes, the most urgent first, is the beginning of an index: for each class the rows that have been due the
-- longest. Rows whose next reconciliation mints have an index of their own, because they wait for the scarcest limit and must
-- not stand before the others.
DROP INDEX work_due;
CREATE INDEX work_due ON work (kind, class, due_at) WHERE needs IS NULL OR needs <> 'processor_token_create';
CREATE INDEX work_due_to_mint ON work (kind, class, due_at) WHERE needs = 'processor_token_create';
-- What is known of an Item's mints: by a reconciliation that begins, and by whoever looks at the Item or erases it.
CREATE INDEX processor_tokens_item ON processor_tokens (item_id, state);
-- Few accounts move, and nobody asks for those that don't.
DROP INDEX accounts_moving;
CREATE INDEX accounts_moving ON accounts (moving_from) WHERE moving_from IS NOT NULL;
CREATE INDEX assignments_business ON assignments (business_id) WHERE business_id IS NOT NULL;
CREATE INDEX hints_expire ON hints (expires_at);
-- Earlier releases did not say that they observe: what they may have left is ordered once.
INSERT INTO meta (name, value) VALUES ('observed_at', '0') ON CONFLICT (name) DO NOTHING;
