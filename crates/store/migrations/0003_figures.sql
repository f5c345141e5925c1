-- What metrics count every few seconds, so that no count reads a whole table.
CREATE INDEX work_signal ON work (kind, signal_at) WHERE signal_at IS NOT NULL;
CREATE INDEX work_looked ON work (kind, looked_at);
CREATE INDEX items_awaiting ON items (item_id) WHERE state = 'awaiting_token';
CREATE INDEX businesses_never ON businesses (business_id) WHERE converged_at IS NULL;
CREATE INDEX processor_tokens_orphaned ON processor_tokens (id) WHERE state = 'orphaned';
