package pgidem

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// queryModes are the ways in which pgx sends statements. DescribeExec, which asks for the types each time, is left out:
// it costs a round trip more for everybody.
var queryModes = map[string]pgx.QueryExecMode{
	"CacheStatement": pgx.QueryExecModeCacheStatement,
	"CacheDescribe":  pgx.QueryExecModeCacheDescribe,
	"Exec":           pgx.QueryExecModeExec,
	"SimpleProtocol": pgx.QueryExecModeSimpleProtocol,
}

// The cost budget, counted at the wire and not timed.
func TestCost(t *testing.T) {
	for name, mode := range queryModes {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }))
			b.warm(b.client, b.pool)

			bare := func() error {
				return pgx.BeginFunc(b.Context(), b.pool, func(tx pgx.Tx) error {
					_, err := tx.Exec(b.Context(), "INSERT INTO effects (key) VALUES ($1)", "bare")
					return err
				})
			}
			b.must(nil, bare())
			b.wantCost("the bare transaction", 3, 1, bare)
			b.wantCost("a fresh key", 3, 1, func() error {
				_, err := DoTx(b.Context(), b.client, b.key, b.effect("first"))
				return err
			})
			b.wantCost("a replay", 2, 0, func() error {
				_, err := DoTx(b.Context(), b.client, b.key, b.effect("second"))
				return err
			})
			b.wantCost("a known retry", 1, 0, func() error {
				_, err := DoTx(b.Context(), b.client, b.key, b.effect("third"), &TxOpts{Retry: true})
				return err
			})
			b.wantCost("a fresh key whose statement travels with the result", 2, 1, func() error {
				_, err := DoTx(b.Context(), b.client, Key{"s", NewID()}, func(_ context.Context, tx Tx) (string, error) {
					return "last", tx.Last("INSERT INTO effects (key) VALUES ($1)", b.key.ID)
				})
				return err
			})
			b.wantEffects(2)
		})
	}
}

func (b *bundle) wantCost(what string, roundTrips, commits int, f func() error) {
	b.Helper()
	b.faults.Reset()
	b.must(nil, f())
	got := b.faults.Counts()
	if got.RoundTrips != roundTrips || got.Commits != commits || got.Connections != 0 {
		b.Errorf("%s: %d round trips, %d commits, %d new connections; want %d, %d, 0",
			what, got.RoundTrips, got.Commits, got.Connections, roundTrips, commits)
	}
}

// A waiter of another process costs one connection and no commit, however many callers it has.
func TestCostOfWaiting(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	other, otherPool, otherFaults := b.newClient()
	b.warm(other, otherPool)

	hold := b.faults.Hold(atCommit(faultconn.Before))
	first := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("first")) })
	b.reached(hold)
	otherFaults.Reset()
	const callers = 64
	var waiters []<-chan answer[string]
	for range callers {
		waiters = append(waiters, async(b, func() (Result[string], error) {
			return DoTx(b.Context(), other, b.key, b.effect("second"))
		}))
	}
	b.lockAwaited("the other process waits for the lock", 1)
	hold.Release()
	a := <-first
	b.wantResult(a.Result, a.err, "first", false)
	for _, w := range waiters {
		a := <-w
		b.wantResult(a.Result, a.err, "first", true)
	}
	b.wantEffects(1)
	if got := otherFaults.Counts(); got.Commits != 0 || got.Connections != 0 {
		b.Errorf("%d waiting callers cost %d commits and %d new connections, want none", callers, got.Commits, got.Connections)
	}
}
