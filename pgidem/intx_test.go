package pgidem

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// beginOn begins the transaction of a caller of InTx or MarkTx; what the test does not end is rolled back.
func (b *bundle) beginOn(pool *pgxpool.Pool, options ...pgx.TxOptions) pgx.Tx {
	b.Helper()
	tx, err := pool.BeginTx(b.Context(), append(options, pgx.TxOptions{})[0])
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(b.Context())) })
	return tx
}

func (b *bundle) begin() pgx.Tx {
	b.Helper()
	return b.beginOn(b.pool)
}

// effectIn is the usual function for InTx: it writes one effect through tx and returns result.
func (b *bundle) effectIn(tx pgx.Tx, result string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		_, err := tx.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", b.key.ID)
		return result, err
	}
}

// wantAlive checks that the caller's transaction can go on, and has the settings that it had.
func (b *bundle) wantAlive(tx pgx.Tx) {
	b.Helper()
	var settings string
	err := tx.QueryRow(b.Context(), `SELECT current_setting('lock_timeout') || coalesce(current_setting('pgidem.claim', true), '')`).Scan(&settings)
	if err != nil || settings != "0" {
		b.Errorf("the caller's transaction answers %q, %v; want its own lock_timeout, 0, and no claim", settings, err)
	}
}

// The whole life in every query mode: fresh, replayed in the same transaction, nothing before COMMIT, replayed after it.
func TestInTx(t *testing.T) {
	for name, mode := range queryModes {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }))
			tx := b.begin()
			opts := &InTxOpts{Input: "request"}
			got, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "first"), opts)
			b.wantResult(got, err, "first", false)
			if got.Attempt != 1 {
				b.Errorf("attempt %d, want 1", got.Attempt)
			}
			got, err = InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "second"), opts)
			b.wantResult(got, err, "first", true)
			b.wantAlive(tx)
			b.wantState("") // not before COMMIT
			b.must(nil, tx.Commit(b.Context()))
			b.wantState(stateSucceeded)
			b.wantEffects(1)

			tx = b.begin()
			got, err = InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "third"), opts)
			b.wantResult(got, err, "first", true)
			_, err = InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "fourth"), &InTxOpts{Input: "other request"})
			b.wantError(err, ErrKeyReused)
			b.wantAlive(tx)
			b.must(nil, tx.Commit(b.Context()))
			got, err = DoTx(b.Context(), b.client, b.key, b.effect("fifth"), &TxOpts{Input: "request"})
			b.wantResult(got, err, "first", true)
			b.wantEffects(1)
		})
	}
}

// Counted at the wire: two round trips beside fn's statement, whether it runs or replays.
func TestCostOfInTx(t *testing.T) {
	for name, mode := range queryModes {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }))
			warm := b.begin()
			b.must(InTx(b.Context(), b.client, warm, Key{"s", "warm"}, b.effectIn(warm, "")))
			b.must(nil, warm.Commit(b.Context()))
			tx := b.begin()
			call := func() error { return second(InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "done"))) }
			b.wantCost("a fresh key", 2+1, 0, call)
			b.wantCost("a replay", 2, 0, call)
			if n := b.pool.Stat().TotalConns(); n != 1 {
				b.Errorf("%d connections were used, want the caller's only", n)
			}
		})
	}
}

func TestInTxRolledBackByItsCaller(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	b.must(InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "first")))
	b.must(nil, tx.Rollback(b.Context()))
	b.wantEffects(0)
	b.wantState("")
	tx = b.begin()
	got, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "second"))
	b.wantResult(got, err, "second", false)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(1)
}

// review 13: an expired key is free again, also within the transaction.
func TestReview13InTxExpiredKeyIsFree(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	for _, want := range []string{"first", "second"} {
		got, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, want), &InTxOpts{TTL: time.Microsecond})
		b.wantResult(got, err, want, false)
	}
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(2)
}

// review 21: a claim that is rolled back leaves no trace, so attempts are not counted and nothing parks.
func TestReview21InTxCountsNoAttempts(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	failed := errors.New("failed")
	for range 12 {
		_, err := InTx(b.Context(), b.client, tx, b.key, func(context.Context) (string, error) { return "", failed })
		if !errors.Is(err, failed) {
			b.Fatalf("got %v, want the function's error", err)
		}
	}
	got, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "done"))
	b.wantResult(got, err, "done", false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(1)
}

// review 16: InTx does not wait for anybody, in memory or in the server, because its caller may hold what the other needs.
func TestReview16InTxDoesNotWait(t *testing.T) {
	b := setup(t)
	other, otherPool, _ := b.newClient()
	for name, client := range map[string]*Client{"SameProcess": b.client, "OtherProcess": other} {
		b.key = Key{"s", name}
		first, later := b.begin(), b.beginOn(otherPool)
		b.must(InTx(b.Context(), b.client, first, b.key, func(ctx context.Context) (string, error) {
			_, err := InTx(b.Context(), client, later, b.key, b.effectIn(later, "never"))
			b.wantError(err, ErrInProgress)
			return b.effectIn(first, "first")(ctx)
		}))
		_, err := InTx(b.Context(), client, later, b.key, b.effectIn(later, "never")) // not committed yet
		b.wantError(err, ErrInProgress)
		var e *Error
		if errors.As(err, &e) && e.RetryAfter <= 0 {
			b.Error("the error has no RetryAfter")
		}
		b.wantAlive(later)
		b.must(nil, first.Commit(b.Context()))
		got, err := InTx(b.Context(), client, later, b.key, b.effectIn(later, "never"))
		b.wantResult(got, err, "first", true)
		b.wantEffects(1)
		b.must(nil, later.Rollback(b.Context()))
	}
}

// review 24: a lock that was refused proves nothing: a finished key is answered although somebody holds its lock.
func TestReview24InTxReplaysBesideALock(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("saved")))
	b.lockKey(b.key)
	tx := b.begin()
	got, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "never"))
	b.wantResult(got, err, "saved", true)
}

// A DoTx of another process waits for the caller's COMMIT, and replays.
func TestDoTxWaitsForInTx(t *testing.T) {
	b := setup(t)
	other, _, _ := b.newClient()
	tx := b.begin()
	b.must(InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "first")))
	waiting := async(b, func() (Result[string], error) { return DoTx(b.Context(), other, b.key, b.effect("second")) })
	b.lockAwaited("the other process waits", 1)
	b.must(nil, tx.Commit(b.Context()))
	a := <-waiting
	b.wantResult(a.Result, a.err, "first", true)
	b.wantEffects(1)
}

// review 6: what fn wrote before its error is gone although the caller swallows the error and commits.
func TestReview06InTxRollsBackToItsSavepoint(t *testing.T) {
	mine := errors.New("mine")
	for name, fail := range map[string]func(context.Context, pgx.Tx) error{
		"Error": func(context.Context, pgx.Tx) error { return mine },
		"SQLError": func(ctx context.Context, tx pgx.Tx) error {
			return errors.Join(mine, second(tx.Exec(ctx, "SELECT 1/0")))
		},
		"Panic":    func(context.Context, pgx.Tx) error { panic(mine) },
		"Encoding": nil,
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			tx := b.begin()
			b.must(tx.Exec(b.Context(), "INSERT INTO effects (key) VALUES ('before')"))
			var err error
			func() {
				defer func() {
					if p := recover(); p != nil {
						err, _ = p.(error)
					}
				}()
				_, err = InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (any, error) {
					_, err := b.effectIn(tx, "")(ctx)
					b.must(nil, err)
					if fail == nil {
						return make(chan int), nil
					}
					return nil, fail(ctx, tx)
				})
			}()
			want := mine
			if fail == nil {
				want = ErrResult
			}
			if !errors.Is(err, want) {
				b.Errorf("got %v, want %v", err, want)
			}
			b.wantAlive(tx)
			other, otherPool, _ := b.newClient()
			otherTx := b.beginOn(otherPool)
			got, err := InTx(b.Context(), other, otherTx, b.key, b.effectIn(otherTx, "other")) // the key is free at once
			b.wantResult(got, err, "other", false)
			b.must(nil, otherTx.Rollback(b.Context()))
			b.must(nil, tx.Commit(b.Context()))
			b.wantEffects(0)
			b.wantState("")
			b.key.ID = "before"
			b.wantEffects(1)
		})
	}
}

func TestInTxGoexit(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
			_, _ = b.effectIn(tx, "")(ctx)
			runtime.Goexit()
			return "", nil
		})
	}()
	<-left
	b.wantAlive(tx)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(0)
	b.must(nil, b.client.Close(b.Context())) // the call has been counted as over
}

// What the function has done is saved although its caller's context has ended, and the transaction is none the worse for it.
func TestInTxSavesLate(t *testing.T) {
	b := setup(t)
	ctx, cancel := context.WithCancel(b.Context())
	tx := b.begin()
	got, err := InTx(ctx, b.client, tx, b.key, func(ctx context.Context) (string, error) {
		defer cancel()
		return b.effectIn(tx, "done")(ctx)
	})
	b.wantResult(got, err, "done", false)
	b.wantAlive(tx)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(1)
	b.wantState(stateSucceeded)
}
