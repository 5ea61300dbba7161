-- What an application has anyway. Nothing in it is there for pgidem.
CREATE TABLE IF NOT EXISTS accounts (
    id            text   PRIMARY KEY,
    balance_cents bigint NOT NULL
);

CREATE TABLE IF NOT EXISTS charges (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account      text        NOT NULL REFERENCES accounts,
    amount_cents bigint      NOT NULL CHECK (amount_cents > 0),
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp()
);

INSERT INTO accounts (id, balance_cents) VALUES ('acct_42', 100000) ON CONFLICT DO NOTHING;
