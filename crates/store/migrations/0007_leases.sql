-- The rows that a process holds, which it says all the time that it still does.
CREATE INDEX work_leased ON work (lease_owner) WHERE lease_owner IS NOT NULL;
