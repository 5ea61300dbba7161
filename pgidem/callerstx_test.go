package pgidem

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// intoTx are the ways into a transaction that the caller has.
var intoTx = map[string]func(context.Context, *bundle, pgx.Tx) error{
	"InTx": func(ctx context.Context, b *bundle, tx pgx.Tx) error {
		_, err := InTx(ctx, b.client, tx, b.key, b.effectIn(tx, ""))
		return err
	},
	"MarkTx": func(ctx context.Context, b *bundle, tx pgx.Tx) error {
		fresh, err := MarkTx(ctx, b.client, tx, b.key.Scope, []string{b.key.ID})
		if err == nil && len(fresh) != 1 {
			err = errors.New("the ID was not fresh")
		}
		return err
	},
}

// wantKind is wantError for a way in whose errors are about the key or its scope.
func (b *bundle) wantKind(err, kind error) {
	b.Helper()
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, kind) || e.Key.Scope != b.key.Scope {
		b.Errorf("got %v, want %v about the scope %s", err, kind, b.key.Scope)
	}
}

// What the library refuses before anything is sent, each with its error.
func TestUnusableCallersTx(t *testing.T) {
	for way, call := range intoTx {
		for name, c := range map[string]struct {
			spoil func(*bundle, pgx.Tx)
			want  error
		}{
			"Committed":  {func(b *bundle, tx pgx.Tx) { b.must(nil, tx.Commit(b.Context())) }, ErrTxEnded},
			"RolledBack": {func(b *bundle, tx pgx.Tx) { b.must(nil, tx.Rollback(b.Context())) }, ErrTxEnded},
			"EndedBySQL": {func(b *bundle, tx pgx.Tx) { b.must(tx.Exec(b.Context(), "COMMIT")) }, ErrTxEnded},
			"Aborted":    {func(b *bundle, tx pgx.Tx) { _, _ = tx.Exec(b.Context(), "SELECT 1/0") }, ErrTxAborted},
			"ClosedConn": {func(b *bundle, tx pgx.Tx) { b.must(nil, tx.Conn().Close(b.Context())) }, ErrTxAborted},
			"OpenRows": {func(b *bundle, tx pgx.Tx) {
				rows, err := tx.Query(b.Context(), "SELECT generate_series(1, 10)") //nolint:sqlclosecheck // Closed by Cleanup.
				b.must(rows, err)
				b.Cleanup(rows.Close)
			}, ErrTxConcurrent},
			"ClosedClient": {func(b *bundle, _ pgx.Tx) { b.must(nil, b.client.Close(b.Context())) }, ErrClosed},
		} {
			t.Run(way+name, func(t *testing.T) {
				b := setup(t)
				tx := b.begin()
				c.spoil(b, tx)
				b.faults.Reset()
				b.wantKind(call(b.Context(), b, tx), c.want)
				if n := b.faults.Counts().RoundTrips; n != 0 {
					b.Errorf("%d round trips were made, want none", n)
				}
			})
		}
	}
}

// A transaction that has ended is not looked at: its connection may serve somebody else by now.
func TestEndedCallersTxLeavesTheConnectionAlone(t *testing.T) {
	b := setup(t, withPool(func(p *pgxpool.Config) { p.MaxConns = 1 }))
	stale := b.begin()
	b.must(nil, stale.Rollback(b.Context()))
	tx := b.begin() // on the same connection
	got, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
		for _, call := range intoTx {
			b.wantKind(call(ctx, &bundle{T: b.T, client: b.client, key: Key{b.key.Scope, "other"}}, stale), ErrTxEnded)
		}
		return b.effectIn(tx, "done")(ctx)
	})
	b.wantResult(got, err, "done", false)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(1)
}

// At a higher level than READ COMMITTED the key would be read as it was when the transaction began.
func TestCallersTxOfAnotherIsolationLevel(t *testing.T) {
	for way, call := range intoTx {
		for name, c := range map[string]struct {
			options pgx.TxOptions
			want    error
		}{
			"RepeatableRead":  {pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, ErrIsolation},
			"Serializable":    {pgx.TxOptions{IsoLevel: pgx.Serializable}, ErrIsolation},
			"ReadOnly":        {pgx.TxOptions{AccessMode: pgx.ReadOnly}, ErrReadOnly},
			"ReadUncommitted": {pgx.TxOptions{IsoLevel: pgx.ReadUncommitted}, nil}, // PostgreSQL's is READ COMMITTED
		} {
			t.Run(way+name, func(t *testing.T) {
				b := setup(t)
				tx := b.beginOn(b.pool, c.options)
				b.must(tx.Exec(b.Context(), "SELECT count(*) FROM idempotency_keys")) // here the snapshot is taken
				b.must(b.observe().Exec(b.Context(), `INSERT INTO idempotency_keys
					(scope, id, kind, state, claim, attempt, result, created_at, finished_at, expires_at)
					VALUES ($1, 'expired', 'tx', 'succeeded', gen_random_uuid(), 1, '""', 'yesterday', 'yesterday', 'yesterday')`, b.key.Scope))
				err := call(b.Context(), b, tx)
				if c.want == nil {
					b.must(nil, err)
				} else {
					b.wantKind(err, c.want)
				}
				b.wantAlive(tx)
				b.must(nil, tx.Commit(b.Context()))
				if n := one[int](b, b.observe(), "SELECT count(*) FROM idempotency_keys"); n != 1 && c.want != nil {
					b.Errorf("%d rows are left, want the one that was there", n)
				}
			})
		}
	}
}

// The schema is missing: typed, and where statements were prepared before, the transaction lives on.
func TestCallersTxWithoutSchema(t *testing.T) {
	for way, call := range intoTx {
		t.Run(way, func(t *testing.T) {
			b := setup(t, withPool(inMode(pgx.QueryExecModeCacheStatement)))
			tx := b.begin()
			b.must(tx.Exec(b.Context(), "SET LOCAL search_path = pg_catalog"))
			err := call(b.Context(), b, tx) // the first on its connection: PREPARE fails, and comes before SAVEPOINT
			b.wantKind(err, ErrSchema)
			if !strings.Contains(err.Error(), "is aborted: roll it back") {
				b.Errorf("%v does not say that the caller's transaction is aborted", err)
			}
			b.must(nil, tx.Rollback(b.Context()))
			tx = b.begin()
			b.must(nil, call(b.Context(), b, tx))
			b.must(nil, tx.Rollback(b.Context()))

			tx = b.begin()
			b.must(tx.Exec(b.Context(), "SET LOCAL search_path = pg_catalog"))
			b.wantKind(call(b.Context(), b, tx), ErrSchema)
			b.wantAlive(tx)
		})
	}
}

// A context that has ended sends nothing; one that ends while a statement waits costs the connection, as everywhere in pgx.
func TestCallersTxCancelled(t *testing.T) {
	errGone := errors.New("the caller has gone")
	for way, call := range intoTx {
		t.Run(way, func(t *testing.T) {
			b := setup(t)
			tx := b.begin()
			ctx, cancel := context.WithCancelCause(b.Context())
			hold := b.faults.Hold(faultconn.Point{SQL: "SAVEPOINT pgidem"})
			done := async(b, func() (Result[string], error) { return Result[string]{}, call(ctx, b, tx) })
			b.reached(hold)
			cancel(errGone)
			if a := <-done; !errors.Is(a.err, errGone) {
				b.Errorf("got %v, want the context's cause", a.err)
			}
			hold.Release()
			tx = b.begin()
			if err := call(ctx, b, tx); !errors.Is(err, errGone) {
				b.Errorf("got %v, want the context's cause", err)
			}
			b.must(tx.Exec(b.Context(), "SELECT 1"))
		})
	}
}

// The connection is lost before, and the caller learns that nothing was committed.
func TestCallersTxLosesItsConnection(t *testing.T) {
	for way, call := range intoTx {
		t.Run(way, func(t *testing.T) {
			b := setup(t)
			tx := b.begin()
			b.faults.Cut(faultconn.Point{SQL: "INSERT INTO idempotency_keys"})
			b.wantKind(call(b.Context(), b, tx), ErrUnavailable)
			if err := tx.Commit(b.Context()); err == nil {
				b.Error("the caller's COMMIT succeeded")
			}
			b.wantEffects(0)
			b.wantState("")
		})
	}
}

// Bad input: refused by each way in, before anything is sent.
func TestBadInputOfInTxAndMarkTx(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.ValidateID = ValidateUUID }))
	tx := b.begin()
	b.faults.Reset()
	for name, key := range map[string]Key{
		"NoScope": {"", NewID()}, "NoID": {"s", ""}, "LongScope": {strings.Repeat("s", 256), NewID()},
		"LongID": {"s", strings.Repeat("i", 256)}, "NotUTF8": {"s", "\xff"}, "NUL": {"s\x00", NewID()}, "Policy": {"s", "no-uuid"},
	} {
		t.Run(name, func(*testing.T) {
			b.key = key
			for _, call := range intoTx {
				b.wantKind(call(b.Context(), b, tx), ErrInvalidKey)
			}
			_, err := MarkTx(b.Context(), b.client, tx, key.Scope, []string{NewID(), key.ID, NewID()})
			b.wantKind(err, ErrInvalidKey)
		})
	}
	b.key = Key{"s", NewID()}
	fn := b.effectIn(tx, "never")
	for name, err := range map[string]error{
		"NilClient":     second(InTx(b.Context(), nil, tx, b.key, fn)),
		"NilTx":         second(InTx(b.Context(), b.client, nil, b.key, fn)),
		"NilFn":         second(InTx[string](b.Context(), b.client, tx, b.key, nil)),
		"TwoOpts":       second(InTx(b.Context(), b.client, tx, b.key, fn, nil, nil)),
		"TTL":           second(InTx(b.Context(), b.client, tx, b.key, fn, &InTxOpts{TTL: -1})),
		"Input":         second(InTx(b.Context(), b.client, tx, b.key, fn, &InTxOpts{Input: make(chan int)})),
		"MarkNilClient": second(MarkTx(b.Context(), nil, tx, "s", nil)),
		"MarkNilTx":     second(MarkTx(b.Context(), b.client, nil, "s", nil)),
		"MarkTwoOpts":   second(MarkTx(b.Context(), b.client, tx, "s", nil, nil, nil)),
		"MarkTTL":       second(MarkTx(b.Context(), b.client, tx, "s", nil, &MarkOpts{TTL: -1})),
		"MarkWaitBound": second(MarkTx(b.Context(), b.client, tx, "s", nil, &MarkOpts{WaitBound: -2})),
	} {
		if !errors.Is(err, ErrConfig) {
			b.Errorf("%s: got %v, want %v", name, err, ErrConfig)
		}
	}
	if n := b.faults.Counts().RoundTrips; n != 0 {
		b.Errorf("%d round trips were made, want none", n)
	}
}

// fn returns success over an SQL error: what it did is rolled back, and the caller's transaction lives.
func TestInTxSwallowedSQLError(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
		b.must(b.effectIn(tx, "")(ctx))
		_, _ = tx.Exec(ctx, "SELECT 1/0")
		return "done", nil
	})
	b.wantError(err, ErrTxAborted)
	b.wantAlive(tx)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(0)
	b.wantState("")
}

// fn that leaves search_path changed would have its result saved where nobody looks for it.
func TestInTxWithAnotherSearchPath(t *testing.T) {
	for path, table := range map[string]string{"elsewhere": "", "copied": "CREATE TABLE copied.idempotency_keys (LIKE public.idempotency_keys INCLUDING ALL)"} {
		t.Run(path, func(t *testing.T) {
			b := setup(t)
			b.must(b.observe().Exec(b.Context(), "CREATE SCHEMA "+path+";"+table))
			tx := b.begin()
			_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
				return "done", second(tx.Exec(ctx, "SET LOCAL search_path = "+path))
			})
			b.wantError(err, ErrTxAborted)
			b.wantAlive(tx)
			b.must(nil, tx.Commit(b.Context()))
			b.wantState("")
		})
	}
}

// Rights that are missing are named, although nothing was probed.
func TestCallersTxWithoutRights(t *testing.T) {
	for way, call := range intoTx {
		t.Run(way, func(t *testing.T) {
			b := setup(t)
			role := "pgidem_test_" + strings.ReplaceAll(NewID(), "-", "")
			b.must(b.observe().Exec(b.Context(), "CREATE ROLE "+role+"; GRANT SELECT ON idempotency_keys TO "+role+"; GRANT INSERT ON effects TO "+role))
			tx := b.begin()
			b.must(tx.Exec(b.Context(), "SET LOCAL ROLE "+role))
			err := call(b.Context(), b, tx)
			b.wantKind(err, ErrSchema)
			if !strings.Contains(err.Error(), "SELECT, INSERT, UPDATE and DELETE") {
				b.Errorf("%v does not name the rights", err)
			}
			b.wantAlive(tx)
			b.must(nil, tx.Rollback(b.Context()))
			b.must(b.observe().Exec(b.Context(), "DROP OWNED BY "+role+"; DROP ROLE "+role))
		})
	}
}

// A role that fn has set is fn's mistake, not the schema's.
func TestInTxWithARoleOfTheFunction(t *testing.T) {
	b := setup(t)
	role := "pgidem_test_" + strings.ReplaceAll(NewID(), "-", "")
	b.must(b.observe().Exec(b.Context(), "CREATE ROLE "+role+"; GRANT SELECT ON idempotency_keys TO "+role))
	tx := b.begin()
	_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
		return "done", second(tx.Exec(ctx, "SET LOCAL ROLE "+role))
	})
	b.wantError(err, ErrTxAborted)
	b.wantAlive(tx)
	b.must(nil, tx.Rollback(b.Context()))
	b.must(b.observe().Exec(b.Context(), "DROP OWNED BY "+role+"; DROP ROLE "+role))
}

// The caller's own lock_timeout strikes while statements are prepared, before the savepoint: the answer says what is left.
func TestCallersTxAbortedBeforeItsSavepoint(t *testing.T) {
	for way, call := range intoTx {
		t.Run(way, func(t *testing.T) {
			b := setup(t, withPool(inMode(pgx.QueryExecModeCacheStatement)))
			locker := b.beginOn(b.observe())
			b.must(locker.Exec(b.Context(), "LOCK TABLE idempotency_keys"))
			tx := b.begin()
			b.must(tx.Exec(b.Context(), "SET LOCAL lock_timeout = 50"))
			err := call(b.Context(), b, tx)
			b.wantKind(err, ErrUnavailable)
			if sqlState(err) != lockNotAvailable || !strings.Contains(err.Error(), "is aborted: roll it back") {
				b.Errorf("%v does not say that the caller's transaction is aborted", err)
			}
		})
	}
}

// A statement_timeout of the caller's ends a wait like lock_timeout.
func TestStatementTimeoutEndsAWait(t *testing.T) {
	waits := map[string]func(*bundle, pgx.Tx) error{
		"MarkSave": func(b *bundle, tx pgx.Tx) error {
			return second(MarkTx(b.Context(), b.client, tx, b.key.Scope, []string{"marked"}))
		},
		"MarkDropExpired": func(b *bundle, tx pgx.Tx) error {
			return second(MarkTx(b.Context(), b.client, tx, b.key.Scope, []string{"expired"}))
		},
	}
	for name, wait := range waits {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			tx := b.begin()
			b.must(MarkTx(b.Context(), b.client, tx, b.key.Scope, []string{"expired"}, &MarkOpts{TTL: time.Microsecond}))
			b.must(nil, tx.Commit(b.Context()))
			holder := b.begin()
			b.must(MarkTx(b.Context(), b.client, holder, b.key.Scope, []string{"marked"}))
			b.must(holder.Exec(b.Context(), "SELECT FROM idempotency_keys FOR UPDATE"))
			tx = b.begin()
			b.must(tx.Exec(b.Context(), "SET LOCAL statement_timeout = 1000"))
			b.wantKind(wait(b, tx), ErrInProgress)
			b.wantAlive(tx)
			b.must(nil, holder.Rollback(b.Context()))
			b.must(nil, wait(b, tx))
		})
	}
}
