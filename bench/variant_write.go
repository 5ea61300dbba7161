package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem"
)

func bare() variant {
	return variant{
		name:     "bare",
		question: "the work in a transaction, not safe to retry: Begin, INSERT, Commit",
		setup: func(l *lab) op {
			return func(ctx context.Context, _ int) error {
				tx, err := l.pool.Begin(ctx)
				if err != nil {
					return err
				}
				defer func() { _ = tx.Rollback(ctx) }() // sends nothing after a Commit
				c := newCharge()
				if _, err := tx.Exec(ctx, insertCharge, c.ID, c.Account, c.Amount); err != nil {
					return err
				}
				return tx.Commit(ctx)
			}
		},
	}
}

func handwritten() variant {
	return variant{
		name:     "handwritten",
		question: "the same made safe by hand, statement by statement: lock, look, work, save",
		baseline: "bare",
		setup: func(l *lab) op {
			return func(ctx context.Context, _ int) error {
				_, err := chargeByHand(ctx, l, pgidem.NewID())
				return err
			}
		},
	}
}

func chargeByHand(ctx context.Context, l *lab, id string) (charge, error) {
	tx, err := l.pool.Begin(ctx)
	if err != nil {
		return charge{}, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", scope+"/"+id); err != nil {
		return charge{}, err
	}
	var saved []byte
	err = tx.QueryRow(ctx, "SELECT result FROM handwritten_keys WHERE scope = $1 AND id = $2", scope, id).Scan(&saved)
	if err == nil {
		var c charge
		err = json.Unmarshal(saved, &c)
		return c, err
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return charge{}, err
	}
	c := newCharge()
	if _, err := tx.Exec(ctx, insertCharge, c.ID, c.Account, c.Amount); err != nil {
		return charge{}, err
	}
	result, err := json.Marshal(c)
	if err != nil {
		return charge{}, err
	}
	if _, err := tx.Exec(ctx, "INSERT INTO handwritten_keys (scope, id, result) VALUES ($1, $2, $3)", scope, id, result); err != nil {
		return charge{}, err
	}
	return c, tx.Commit(ctx)
}

func dotx() variant {
	return variant{
		name:     "dotx",
		question: "the same by DoTx, with a new key each time",
		baseline: "bare",
		setup: func(l *lab) op {
			return func(ctx context.Context, _ int) error {
				return fresh(pgidem.DoTx(ctx, l.client, newKey(), chargeTx))
			}
		},
	}
}

func chargeTx(ctx context.Context, tx pgidem.Tx) (charge, error) {
	c := newCharge()
	_, err := tx.Exec(ctx, insertCharge, c.ID, c.Account, c.Amount)
	return c, err
}

func dotxLast() variant {
	return variant{
		name:     "dotx_last",
		question: "DoTx whose INSERT is handed over by tx.Last, to travel with the result and COMMIT",
		baseline: "bare",
		setup: func(l *lab) op {
			return func(ctx context.Context, _ int) error {
				return fresh(pgidem.DoTx(ctx, l.client, newKey(), chargeLast))
			}
		},
	}
}

func chargeLast(_ context.Context, tx pgidem.Tx) (charge, error) {
	c := newCharge()
	return c, tx.Last(insertCharge, c.ID, c.Account, c.Amount)
}

func dobatch() variant {
	return variant{
		name:     "dobatch",
		question: "the same by DoBatch: claim, INSERT, result and COMMIT in one round trip",
		baseline: "bare",
		setup: func(l *lab) op {
			return func(ctx context.Context, _ int) error {
				c := newCharge()
				return fresh(pgidem.DoBatch(ctx, l.client, newKey(), c, func(b *pgx.Batch) {
					b.Queue(insertCharge, c.ID, c.Account, c.Amount)
				}))
			}
		},
	}
}

func newKey() pgidem.Key { return pgidem.Key{Scope: scope, ID: pgidem.NewID()} }

// fresh makes sure that what was measured is what the variant's name says.
func fresh(r pgidem.Result[charge], err error) error {
	if err == nil && r.Replayed {
		return fmt.Errorf("a new key was answered from a saved result: %+v", r)
	}
	return err
}
