package pgidem

import (
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// A connection is cut before and behind every message of an operation of several steps, in both directions, also of those that the
// tests by rows do not name. The caller may get an error where its own statement has lost its connection; it asks again, and then there
// is one result, each transaction was committed once, and the call was made once: its process lives, so that its answer is never lost.
func TestDoCutAtEveryMessage(t *testing.T) {
	for name, opts := range map[string]*DoOpts{"Plain": nil, "StartsWithTx": {StartsWithTx: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withQuietLiveness(), withPool(func(p *pgxpool.Config) {
				p.MaxConns = 3
				// So that the messages do not depend on which connection has prepared what.
				p.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
			}))
			b.warmDo(b.client)
			b.faults.RefuseCancel(true)
			b.faults.Record()
			r := ride{b: b}
			b.must(Do(b.Context(), b.client, b.key, r.run, opts))
			points := faultconn.Points(b.faults.Messages())
			b.faults.Reset()
			struck, observer := make(map[string]int), b.observe()
			for _, point := range sampled(points) {
				b.key = Key{"acct_42/campaign", NewID()}
				if b.cutAt(point, opts) {
					struck[sortOf(point)]++
				}
				if effects := one[int](b, observer, "SELECT count(*) FROM effects WHERE key = $1", b.key.ID); effects != 2 {
					b.Errorf("the key has %d effects in the database, want 2", effects)
				}
				if t.Failed() {
					b.Fatalf("the cut was %v", point)
				}
			}
			if len(points) < 50 || len(struck) < 4 {
				b.Errorf("of %d points were struck: %v, want some before and behind messages in both directions", len(points), struck)
			}
			b.wantNoKeyLock()
			if n := b.client.registry.count(); n != 0 {
				b.Errorf("%d operations are registered, want none", n)
			}
		})
	}
}

// sampled are all points, or with -short every seventh of each sort.
func sampled(points []faultconn.Point) (taken []faultconn.Point) {
	seen := make(map[string]int)
	for _, point := range points {
		if n := seen[sortOf(point)]; !testing.Short() || n%7 == 0 {
			taken = append(taken, point)
		}
		seen[sortOf(point)]++
	}
	return taken
}

// sortOf tells the points in front of and behind messages in one direction from the others.
func sortOf(p faultconn.Point) string {
	return fmt.Sprintf("%v, %v", p.Side, p.When)
}

// cutAt runs an operation, cuts a connection at point, and asks again where that has led to an error.
func (b *bundle) cutAt(point faultconn.Point, opts *DoOpts) (struck bool) {
	b.Helper()
	r := ride{b: b}
	cut := b.faults.Cut(point)
	got, err := Do(b.Context(), b.client, b.key, r.run, opts)
	if struck = cut.Fired(); !struck {
		cut.Cut() // only disarmed
	}
	if err != nil {
		var ours *Error
		if errors.As(err, &ours) && !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrTxAborted) {
			b.Errorf("got %v", err)
		}
		got, err = Do(b.Context(), b.client, b.key, r.run, opts)
	}
	b.wantResult(got, err, rideResult, false)
	replay, err := Do(b.Context(), b.client, b.key, r.run, opts)
	b.wantResult(replay, err, rideResult, true)
	if r.calls != 1 || r.creates > 2 || r.ends > 2 {
		b.Errorf("the steps ran %d, %d and %d times, want 1 or 2, 1, 1 or 2", r.creates, r.calls, r.ends)
	}
	return struck
}
