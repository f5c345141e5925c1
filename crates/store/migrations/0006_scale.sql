-- Few accounts move, and nobody asks for those that don't. First, because a reader goes from here to the queue.
DROP INDEX accounts_moving;
CREATE INDEX accounts_moving ON accounts (moving_from) WHERE moving_from IS NOT NULL;
-- What is known of an Item's mints: by a reconciliation that begins, and by whoever looks at the Item or erases it.
CREATE INDEX processor_tokens_item ON processor_tokens (item_id, state);
CREATE INDEX assignments_business ON assignments (business_id) WHERE business_id IS NOT NULL;
CREATE INDEX hints_expire ON hints (expires_at);
-- What a claim takes, the most urgent first, is the beginning of an index: for each class the rows that have been due the
-- longest, those whose next reconciliation begins with a mint apart, for they are claimed when there is budget for one.
-- work_due stays for the release before this one, which knows no other.
CREATE INDEX work_due_to_read ON work (kind, class, due_at) WHERE needs IS NULL OR needs <> 'processor_token_create';
CREATE INDEX work_due_to_mint ON work (kind, class, due_at) WHERE needs = 'processor_token_create';
-- Earlier releases did not say that they observe: what they may have left is ordered once.
INSERT INTO meta (name, value) VALUES ('observed_at', '0') ON CONFLICT (name) DO NOTHING;
