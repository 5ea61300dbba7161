package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem"
)

type chargeRequest struct {
	Account     string `json:"account"`
	AmountCents int64  `json:"amount_cents"`
}

type receipt struct {
	ChargeID     int64  `json:"charge_id"`
	Account      string `json:"account"`
	AmountCents  int64  `json:"amount_cents"`
	BalanceCents int64  `json:"balance_cents"`
}

var errNoAccount = errors.New("there is no such account")

// charge takes money from an account once, however often it is called with the same key: the new balance, the charge
// and the receipt that is saved under the key are committed in one transaction.
func charge(ctx context.Context, client *pgidem.Client, id string, request chargeRequest) (pgidem.Result[receipt], error) {
	// A real service takes the account from the caller's credentials: nobody may ask for somebody else's receipt.
	key := pgidem.Key{Scope: request.Account + "/charges", ID: id}

	return pgidem.DoTx(ctx, client, key, func(ctx context.Context, tx pgidem.Tx) (receipt, error) {
		r := receipt{Account: request.Account, AmountCents: request.AmountCents}
		err := tx.QueryRow(ctx, `UPDATE accounts SET balance_cents = balance_cents - $2 WHERE id = $1 RETURNING balance_cents`,
			request.Account, request.AmountCents).Scan(&r.BalanceCents)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return r, errNoAccount // a plain error saves nothing: a retry runs again, and may find the account
		case err != nil:
			return r, fmt.Errorf("take the amount from the balance: %w", err)
		case r.BalanceCents < 0:
			// A definite no is saved and answers every retry; the UPDATE is rolled back.
			return r, pgidem.Permanent(&pgidem.Failure{Code: "insufficient_funds", Message: "the balance is less than the amount"})
		}
		err = tx.QueryRow(ctx, `INSERT INTO charges (account, amount_cents) VALUES ($1, $2) RETURNING id`,
			request.Account, request.AmountCents).Scan(&r.ChargeID)
		if err != nil {
			return r, fmt.Errorf("record the charge: %w", err)
		}
		return r, nil
	}, &pgidem.TxOpts{Input: request})
}
