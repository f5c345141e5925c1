-- What is booked of the providers' limits, for the whole fleet: one row per limit.
CREATE TABLE budgets (
    call TEXT PRIMARY KEY,
    -- Microseconds since 1970: every slot before this is taken.
    booked_until BIGINT NOT NULL,
    -- After a 429 nobody calls before this, and from slowed_at on only slowed_to thousandths of the rate are used.
    rest_until BIGINT NOT NULL,
    slowed_at BIGINT NOT NULL,
    slowed_to BIGINT NOT NULL
);

-- The call that an unfinished look still needs: the row is claimed when there is budget for it.
ALTER TABLE work ADD COLUMN needs TEXT;
-- When an Item's own limits allow the next look, and the next proof of a token.
ALTER TABLE work ADD COLUMN next_look BIGINT;
ALTER TABLE work ADD COLUMN next_proof BIGINT;
