-- What an application has anyway. Nothing in it is there for pgidem, and no constraint helps it: a ride that is booked
-- twice in the ledger would be seen there.
CREATE TABLE IF NOT EXISTS rides (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer     text        NOT NULL,
    origin       text        NOT NULL,
    destination  text        NOT NULL,
    price_cents  bigint      NOT NULL CHECK (price_cents > 0),
    state        text        NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'paid', 'cancelled')),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE IF NOT EXISTS ledger (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ride_id      bigint      NOT NULL REFERENCES rides,
    charge_id    text        NOT NULL,
    amount_cents bigint      NOT NULL,
    booked_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Work for later, staged in the transaction that makes it necessary: a worker (not part of the example) takes it from
-- here, so that no receipt is sent for a ride that was rolled back, and none is forgotten.
CREATE TABLE IF NOT EXISTS staged_jobs (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL,
    args         jsonb       NOT NULL
);
