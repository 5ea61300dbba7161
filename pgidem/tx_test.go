package pgidem

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

var _ pgx.Tx = Tx{}

// review 27: fn that ends its transaction by SQL, in every way, is told so, and no result is saved over it.
func TestReview27TransactionEndedByHand(t *testing.T) {
	for _, sql := range []string{
		"COMMIT", "ROLLBACK", "ABORT", "END",
		"COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT; BEGIN", "ROLLBACK; BEGIN",
	} {
		t.Run(sql, func(t *testing.T) {
			b := setup(t)
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
				return "done", err
			})
			b.wantError(err, ErrTxEnded)
			b.wantState("")
			b.wantEffects(0)
			got, err := DoTx(b.Context(), b.client, b.key, b.effect("clean"))
			b.wantResult(got, err, "clean", false)
		})
	}
}

// The same through a statement that travels with the result: it comes before the row, which then raises.
func TestReview27TransactionEndedByLast(t *testing.T) {
	for _, sql := range []string{"COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN"} {
		t.Run(sql, func(t *testing.T) {
			b := setup(t)
			_, err := DoTx(b.Context(), b.client, b.key, func(_ context.Context, tx Tx) (string, error) {
				return "done", tx.Last(sql)
			})
			b.wantError(err, ErrTxEnded)
			b.wantState("")
		})
	}
}

func TestCommitAndRollbackAreRefused(t *testing.T) {
	b := setup(t)
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		for name, end := range map[string]func(context.Context) error{"Commit": tx.Commit, "Rollback": tx.Rollback} {
			if err := end(ctx); !errors.Is(err, ErrTxEnded) {
				b.Errorf("%s: got %v, want %v", name, err, ErrTxEnded)
			}
		}
		return b.effect("done")(ctx, tx)
	})
	b.wantResult(got, err, "done", false)
	b.wantEffects(1)
}

// fn returns success over an SQL error: its transaction is aborted, and so is the operation.
func TestSwallowedSQLError(t *testing.T) {
	b := setup(t)
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := b.effect("")(ctx, tx)
		b.must(nil, err)
		if _, err := tx.Exec(ctx, "SELECT 1/0"); err == nil {
			b.Error("the division by zero was accepted")
		}
		return "done", nil
	})
	b.wantError(err, ErrTxAborted)
	b.wantEffects(0)
	b.wantState("")
}

// A savepoint is how an SQL error may be survived.
func TestSavepoint(t *testing.T) {
	b := setup(t)
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		err := pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			_, err := inner.Exec(ctx, "INSERT INTO effects (key) VALUES ($1), (NULL)", b.key.ID)
			return err
		})
		if sqlState(err) != notNullViolation {
			b.Errorf("got %v, want the server's 23502", err)
		}
		return b.effect("done")(ctx, tx)
	})
	b.wantResult(got, err, "done", false)
	b.wantEffects(1)
}

func TestRowsLeftOpen(t *testing.T) {
	b := setup(t)
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := tx.Query(ctx, "SELECT generate_series(1, 100000)") //nolint:sqlclosecheck,gocritic // The mistake under test.
		return "done", err
	})
	b.wantError(err, ErrTxAborted)
	b.wantState("")
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantResult(got, err, "done", false)
}

// Every method is refused when fn has returned; the connection may serve somebody else by then.
func TestTxIsOverWhenFnReturns(t *testing.T) {
	b := setup(t)
	var stale Tx
	var savepoint pgx.Tx
	b.must(DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		stale = tx
		var err error
		savepoint, err = tx.Begin(ctx)
		return "done", err
	}))
	ctx := b.Context()
	for name, use := range map[string]func() error{
		"Exec": func() error { return second(stale.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", b.key.ID)) },
		"Query": func() error {
			rows, err := stale.Query(ctx, "SELECT 1")
			rows.Close()
			return errors.Join(err, rows.Err())
		},
		"QueryRow": func() error { var n int; return stale.QueryRow(ctx, "SELECT 1").Scan(&n) },
		"SendBatch": func() error {
			batch := new(pgx.Batch)
			batch.Queue("SELECT 1")
			return stale.SendBatch(ctx, batch).Close()
		},
		"CopyFrom": func() error {
			return second(stale.CopyFrom(ctx, pgx.Identifier{"effects"}, []string{"key"}, pgx.CopyFromRows([][]any{{b.key.ID}})))
		},
		"Prepare":           func() error { return second(stale.Prepare(ctx, "late", "SELECT 1")) },
		"Begin":             func() error { return second(stale.Begin(ctx)) },
		"Last":              func() error { return stale.Last("SELECT 1") },
		"Commit":            func() error { return stale.Commit(ctx) },
		"Rollback":          func() error { return stale.Rollback(ctx) },
		"SavepointExec":     func() error { return second(savepoint.Exec(ctx, "SELECT 1")) },
		"SavepointCommit":   func() error { return savepoint.Commit(ctx) },
		"SavepointRollback": func() error { return savepoint.Rollback(ctx) },
	} {
		if err := use(); !errors.Is(err, ErrTxEnded) {
			b.Errorf("%s: got %v, want %v", name, err, ErrTxEnded)
		}
	}
	b.wantEffects(0)
}

// The Tx is for one goroutine at a time: a second one is refused while the first has a statement in flight.
func TestTxInTwoGoroutines(t *testing.T) {
	b := setup(t)
	unlock := b.lockKey(Key{"blocks", "fn"})
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		slow := make(chan error)
		go func() { slow <- second(tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", Key{"blocks", "fn"}.lock())) }()
		b.lockAwaited("the slow statement runs", 1)
		if _, err := tx.Exec(ctx, "SELECT 1"); !errors.Is(err, ErrTxConcurrent) {
			b.Errorf("got %v, want %v", err, ErrTxConcurrent)
		}
		unlock()
		b.must(nil, <-slow)
		return b.effect("done")(ctx, tx)
	})
	b.wantResult(got, err, "done", false)
	b.wantEffects(1)
}

// fn returns while a goroutine of its own has a statement in flight: it is cancelled, and nothing is committed by half.
func TestFnReturnsWhileItsTxIsInUse(t *testing.T) {
	b := setup(t)
	b.lockKey(Key{"blocks", "fn"})
	slow := make(chan error, 1)
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := b.effect("")(ctx, tx)
		go func() { slow <- second(tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", Key{"blocks", "fn"}.lock())) }()
		b.lockAwaited("the slow statement runs", 1)
		return "done", err
	})
	b.wantError(err, ErrTxConcurrent)
	if err := <-slow; !errors.Is(err, context.Canceled) {
		b.Errorf("the slow statement ended with %v, want its context's end", err)
	}
	b.wantEffects(0)
	b.wantState("")
}

// A connection that is lost inside fn is fn's error; where fn hides it, the library does not.
func TestConnectionLostInFn(t *testing.T) {
	for name, hide := range map[string]bool{"Returned": false, "Hidden": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				_, err := b.effect("")(ctx, tx)
				b.must(nil, err)
				if _, err = tx.Exec(ctx, "SELECT pg_terminate_backend(pg_backend_pid())"); err == nil {
					b.Error("the connection survived its end")
				}
				if hide {
					return "done", nil
				}
				return "", err
			})
			if hide {
				b.wantError(err, ErrTxAborted)
			} else if sqlState(err) != "57P01" {
				b.Errorf("got %v, want the server's 57P01 as fn returned it", err)
			}
			b.wantEffects(0)
			got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
			b.wantResult(got, err, "done", false)
		})
	}
}

func TestLast(t *testing.T) {
	b := setup(t)
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		return "done", errors.Join(
			tx.Last("INSERT INTO effects (key) VALUES ($1)", b.key.ID),
			tx.Last("UPDATE effects SET key = $1 || '!' WHERE key = $1", b.key.ID), // in the order of the calls
		)
	})
	b.wantResult(got, err, "done", false)
	b.wantEffects(0)
	if n := one[int](b, b.observe(), "SELECT count(*) FROM effects WHERE key = $1", b.key.ID+"!"); n != 1 {
		b.Errorf("%d rows, want 1", n)
	}
}

// An error of a statement that travels with the result rolls everything back and is told as it is.
func TestLastFails(t *testing.T) {
	for name, c := range map[string]struct {
		sql  string
		args []any
		code string
	}{
		"AtRun":     {sql: "SELECT 1/0", code: "22012"},
		"AtParse":   {sql: "SELEC", code: "42601"},
		"AtEncode":  {sql: "INSERT INTO effects (key) VALUES ($1)", args: []any{make(chan int)}},
		"Arguments": {sql: "INSERT INTO effects (key) VALUES ($1)"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			if name == "Arguments" && b.pool.Config().ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeExec {
				c.code = protocolViolation // pgx leaves the counting to the server
			}
			runs := 0
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				runs++
				return "done", errors.Join(second(b.effect("")(ctx, tx)), tx.Last(c.sql, c.args...))
			})
			if err == nil || errors.Is(err, ErrUnknownOutcome) || sqlState(err) != c.code || runs != 1 {
				b.Errorf("%d runs and %v, want one run and its definite error (%s)", runs, err, c.code)
			}
			b.wantEffects(0)
			b.wantState("")
			got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
			b.wantResult(got, err, "done", false)
		})
	}
}

// A panic in a method of an argument that travels with the result is a panic like any other.
func TestPanicInAnArgumentOfLast(t *testing.T) {
	b := setup(t)
	func() {
		defer func() {
			if recover() == nil {
				b.Error("the panic was lost")
			}
		}()
		_, _ = DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
			_, err := b.effect("")(ctx, tx)
			return "done", errors.Join(err, tx.Last("INSERT INTO effects (key) VALUES ($1)", panickyText{}))
		})
	}()
	b.wantEffects(0)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantResult(got, err, "done", false)
}

type panickyText struct{}

func (panickyText) TextValue() (pgtype.Text, error) { panic("no text") }

// Several statements in one Last work in the simple protocol alone; whatever came of it is told as it is.
func TestLastOfSeveralStatements(t *testing.T) {
	b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol }))
	insert := "INSERT INTO effects (key) VALUES ('" + b.key.ID + "')"
	got, err := DoTx(b.Context(), b.client, b.key, func(_ context.Context, tx Tx) (string, error) {
		return "done", tx.Last(insert + "; " + insert)
	})
	b.wantResult(got, err, "done", false)
	b.wantEffects(2)
}

// The result is saved where the claim looked for it, or not at all.
func TestFnMovesAway(t *testing.T) {
	role := "pgidem_test_" + strings.ReplaceAll(NewID(), "-", "")
	for name, sql := range map[string]string{
		"OtherSchemaWithATable": "CREATE SCHEMA tenant; CREATE TABLE tenant.idempotency_keys (LIKE idempotency_keys INCLUDING ALL); SET LOCAL search_path = tenant",
		"TemporaryTable":        "CREATE TEMP TABLE idempotency_keys (LIKE idempotency_keys INCLUDING ALL)",
		"OtherSchemaWithout":    "SET LOCAL search_path = pg_temp",
		"OtherRole":             "CREATE ROLE " + role + "; SET LOCAL ROLE " + role,
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			runs := 0
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				runs++
				return "done", errors.Join(second(b.effect("")(ctx, tx)), second(tx.Conn().PgConn().Exec(ctx, sql).ReadAll()))
			})
			b.wantError(err, ErrTxAborted)
			if runs != 1 {
				b.Errorf("fn ran %d times, want 1", runs)
			}
			b.wantEffects(0)
		})
	}
}

// The server ends a transaction that fn leaves idle: definite, because it does so only while it waits for a message.
func TestIdleInTransactionTimeout(t *testing.T) {
	b := setup(t)
	observer := b.observe()
	runs := 0
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		runs++
		got, err := b.effect("done")(ctx, tx)
		b.must(tx.Exec(ctx, "SET LOCAL idle_in_transaction_session_timeout = 100")) // here, and not between the library's messages
		for one[int](b, observer, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND state = 'idle in transaction'`) > 0 {
			b.must(observer.Exec(ctx, "SELECT pg_sleep(0.02)"))
		}
		return got, err
	})
	b.wantError(err, ErrTxAborted)
	if runs != 1 {
		b.Errorf("fn ran %d times, want 1", runs)
	}
	b.wantEffects(0)
}

// review 19: panic and Goexit roll back, free the key and the connection, and go on.
func TestReview19PanicAndGoexit(t *testing.T) {
	for name, leave := range map[string]func(){"Panic": func() { panic("boom") }, "Goexit": runtime.Goexit} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			done := make(chan any)
			go func() {
				defer func() { done <- recover() }()
				_, _ = DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
					_, err := b.effect("")(ctx, tx)
					b.must(nil, err)
					leave()
					return "never", nil
				})
			}()
			recovered := <-done
			if name == "Panic" && recovered != "boom" {
				b.Errorf("recovered %v, want fn's own panic", recovered)
			}
			if n := b.pool.Stat().AcquiredConns(); n != 0 {
				b.Errorf("%d connections were not given back", n)
			}
			b.wantEffects(0)
			got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
			b.wantResult(got, err, "done", false)
			b.must(nil, b.client.Close(b.Context()))
		})
	}
}
