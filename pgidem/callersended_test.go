package pgidem

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// review 27: fn that ends the caller's transaction or its savepoint, in every way, is told so, and no result is saved over
// it. What it writes afterwards is there only where it wrote outside of every transaction.
func TestReview27CallersTxEndedByFn(t *testing.T) {
	mine := errors.New("mine")
	for sql, effects := range map[string]int{
		"COMMIT": 1, "ROLLBACK": 1, "COMMIT AND CHAIN": 0, "ROLLBACK AND CHAIN": 0, "COMMIT; BEGIN": 0, "ROLLBACK; BEGIN": 0,
		"RELEASE SAVEPOINT pgidem_operation": 0, "RELEASE SAVEPOINT callers": 0, "ROLLBACK TO SAVEPOINT callers": 0,
	} {
		for end, fail := range map[string]error{"": nil, " with an error": mine, " for good": Permanent(&Failure{Code: "declined"})} {
			t.Run(sql+end, func(t *testing.T) {
				b := setup(t)
				tx := b.begin()
				b.must(tx.Exec(b.Context(), "SAVEPOINT callers"))
				_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
					_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
					b.must(nil, err)
					b.must(b.effectIn(tx, "")(ctx))
					return "done", fail
				})
				outside := sql == "COMMIT" || sql == "ROLLBACK"
				if fail == mine && !outside {
					b.wantSame(err, mine)
				} else {
					b.wantError(err, ErrTxEnded)
				}
				b.wantUnsaved(err, fail)
				_ = tx.Commit(b.Context())
				b.wantState("")
				b.wantEffects(effects)
			})
		}
	}
	for name, end := range map[string]func(pgx.Tx, context.Context) error{"Commit": pgx.Tx.Commit, "Rollback": pgx.Tx.Rollback} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			tx := b.begin()
			_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) { return "done", end(tx, ctx) })
			b.wantError(err, ErrTxEnded)
			b.wantState("")
		})
	}
}

// wantSame checks that an error is returned as it is.
func (b *bundle) wantSame(err, want error) {
	b.Helper()
	if err != want {
		b.Errorf("got %v, want %v as it is", err, want)
	}
}

// wantUnsaved checks that a failure declined that was not saved is named, but cannot be taken for one that was.
func (b *bundle) wantUnsaved(err, fail error) {
	b.Helper()
	var f *Failure
	if errors.As(fail, &f) && (errors.As(err, &f) || !strings.Contains(err.Error(), "declined")) {
		b.Errorf("got %v, want an error that shows the failure, but is none, because it is not saved", err)
	}
}

// fn ends the savepoint that InTx was given, and writes behind the library's. Whoever swallows the error must not be
// able to commit that; where the transaction has ended too, its connection is not touched.
func TestReview27InTxSavepointEndedByFn(t *testing.T) {
	ends := map[string]func(context.Context, pgx.Tx) error{
		"Commit":   func(ctx context.Context, sp pgx.Tx) error { return sp.Commit(ctx) },
		"Rollback": func(ctx context.Context, sp pgx.Tx) error { return sp.Rollback(ctx) },
	}
	fails := map[string]error{"": nil, "AndError": errors.New("mine"), "AndPermanent": Permanent(&Failure{Code: "declined"})}
	for name, end := range ends {
		for how, fail := range fails {
			t.Run(name+how, func(t *testing.T) {
				b := setup(t)
				tx := b.begin()
				sp, err := tx.Begin(b.Context())
				b.must(nil, err)
				_, err = InTx(b.Context(), b.client, sp, b.key, func(ctx context.Context) (string, error) {
					b.must(b.effectIn(sp, "")(ctx))
					b.must(nil, end(ctx, sp))
					b.must(b.effectIn(tx, "")(ctx))
					return "done", fail
				})
				b.wantError(err, ErrTxEnded)
				b.wantUnsaved(err, fail)
				if err := tx.Commit(b.Context()); err == nil {
					b.Error("the caller's COMMIT succeeded")
				}
				b.wantEffects(0)
				b.wantState("")
			})
		}
		t.Run(name+"InDoTx", func(t *testing.T) {
			b := setup(t)
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				sp, err := tx.Begin(ctx)
				b.must(nil, err)
				_, err = InTx(ctx, b.client, sp, Key{"s", "inner"}, func(ctx context.Context) (string, error) {
					b.must(nil, end(ctx, sp))
					return b.effect("")(ctx, tx)
				})
				if !errors.Is(err, ErrTxEnded) {
					b.Errorf("got %v, want %v", err, ErrTxEnded)
				}
				return "swallowed", nil
			})
			b.wantError(err, ErrTxAborted)
			b.wantEffects(0)
			b.wantState("")
		})
	}
	// With panic, too: nothing returns to judge.
	t.Run("Panic", func(t *testing.T) {
		b := setup(t)
		tx := b.begin()
		sp, err := tx.Begin(b.Context())
		b.must(nil, err)
		func() {
			defer func() { _ = recover() }()
			_, _ = InTx(b.Context(), b.client, sp, b.key, func(ctx context.Context) (string, error) {
				b.must(b.effectIn(sp, "")(ctx))
				b.must(nil, sp.Commit(ctx))
				panic("mine")
			})
		}()
		if err := tx.Commit(b.Context()); err == nil {
			b.Error("the caller's COMMIT succeeded")
		}
		b.wantEffects(0)
	})
}

// fn ends everything, and the pool gives the connection to somebody else before InTx returns: it is left alone.
func TestInTxLeavesAnEndedConnectionAlone(t *testing.T) {
	for name, savepoint := range map[string]bool{"Transaction": false, "Savepoint": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPool(func(p *pgxpool.Config) { p.MaxConns = 1 }))
			tx := b.begin()
			given := tx
			if savepoint {
				var err error
				given, err = tx.Begin(b.Context())
				b.must(nil, err)
			}
			var others pgx.Tx
			_, err := InTx(b.Context(), b.client, given, b.key, func(ctx context.Context) (string, error) {
				if savepoint {
					b.must(nil, given.Commit(ctx))
				}
				b.must(nil, tx.Commit(ctx))
				others = b.begin()
				return b.effectIn(others, "done")(ctx)
			})
			b.wantError(err, ErrTxEnded)
			b.must(nil, others.Commit(b.Context()))
			b.wantEffects(1)
			b.wantState("")
		})
	}
}

// A savepoint works like a transaction, for one round trip more; a transaction that was begun on a connection does too.
func TestInTxOnASavepoint(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	sp, err := tx.Begin(b.Context())
	b.must(nil, err)
	got, err := InTx(b.Context(), b.client, sp, b.key, b.effectIn(sp, "first"))
	b.wantResult(got, err, "first", false)
	failed := errors.New("failed")
	_, err = InTx(b.Context(), b.client, sp, Key{"s", "other"}, func(ctx context.Context) (string, error) {
		b.must(b.effectIn(sp, "")(ctx))
		return "", failed
	})
	b.wantSame(err, failed)
	b.wantCost("a fresh key", 3+1, 0, func() error {
		return second(InTx(b.Context(), b.client, sp, Key{"s", "fresh"}, func(ctx context.Context) (string, error) {
			return "", second(sp.Exec(ctx, "SELECT FROM effects"))
		}))
	})
	b.must(nil, sp.Commit(b.Context()))
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(1)
	b.wantState(stateSucceeded)
}

// An inner operation that lost its savepoint rolls back to the outer one's, and the outer one's fence notices.
func TestInnerRollbackReachesTheOuterSavepoint(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
		b.must(b.effectIn(tx, "")(ctx))
		b.must(tx.Exec(ctx, "SAVEPOINT middle"))
		_, err := InTx(ctx, b.client, tx, Key{b.key.Scope, "inner"}, func(ctx context.Context) (string, error) {
			return "inner", second(tx.Exec(ctx, "ROLLBACK TO SAVEPOINT middle"))
		})
		b.wantKind(err, ErrTxEnded)
		return "outer", nil // swallowed
	})
	b.wantError(err, ErrTxEnded)
	_ = tx.Commit(b.Context())
	b.wantEffects(0)
	b.wantState("")
}

// Rows that fn leaves open make a rollback impossible. The caller must not be able to commit what fn wrote, whatever fn
// returned, and although he swallows our error.
func TestReview06InTxClosesABusyConnection(t *testing.T) {
	for name, fail := range map[string]error{"Success": nil, "Error": errors.New("mine"), "Permanent": Permanent(&Failure{Code: "declined"})} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			tx := b.begin()
			var rows pgx.Rows
			_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
				b.must(b.effectIn(tx, "")(ctx))
				var err error
				rows, err = tx.Query(b.Context(), "SELECT generate_series(1, 100000)") //nolint:sqlclosecheck // The mistake under test; ctx would end them.
				b.must(nil, err)
				return "done", fail
			})
			if name == "Error" {
				b.wantSame(err, fail)
			} else {
				b.wantError(err, ErrTxAborted)
			}
			b.wantUnsaved(err, fail)
			rows.Close()
			if rows.Err() == nil {
				b.Error("the rows could still be read")
			}
			if err := tx.Commit(b.Context()); err == nil {
				b.Error("the caller's COMMIT succeeded")
			}
			b.wantEffects(0)
			b.wantState("")
		})
	}
}

// fn loses the connection: nothing of it is committed, and a definite failure is not called saved.
func TestInTxFunctionLosesTheConnection(t *testing.T) {
	for name, fail := range map[string]error{"Success": nil, "Permanent": Permanent(&Failure{Code: "declined"})} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			tx := b.begin()
			_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
				b.must(b.effectIn(tx, "")(ctx))
				return "done", errors.Join(tx.Conn().Close(ctx), fail)
			})
			b.wantError(err, ErrTxAborted)
			b.wantUnsaved(err, fail)
			b.wantEffects(0)
			b.wantState("")
		})
	}
}
