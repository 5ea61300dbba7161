package main

import "github.com/pgidem/pgidem/pgidem"

// scope of all keys: one table of the application, as an HTTP handler would name it.
const scope = "bench/charges"

// workSchema is the application's: the table that the work writes to, and the keys that a careful engineer would keep
// beside it without a library. They have what is needed to be right once, and neither expiry nor fingerprint.
const workSchema = `
CREATE TABLE charges (
    id      text COLLATE "C" PRIMARY KEY,
    account text   NOT NULL,
    amount  bigint NOT NULL
);
CREATE TABLE handwritten_keys (
    scope      text COLLATE "C" NOT NULL,
    id         text COLLATE "C" NOT NULL,
    result     bytea            NOT NULL,
    created_at timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (scope, id)
);`

const (
	insertCharge = "INSERT INTO charges (id, account, amount) VALUES ($1, $2, $3)"
	selectCharge = "SELECT account, amount FROM charges WHERE id = $1"
)

// charge is the work's row and its result.
type charge struct {
	ID      string `json:"id"`
	Account string `json:"account"`
	Amount  int64  `json:"amount"`
}

// newCharge has a time-ordered ID, as charges and keys should: all variants insert at the end of their indexes.
func newCharge() charge { return charge{ID: pgidem.NewID(), Account: "acct_42", Amount: 1999} }
