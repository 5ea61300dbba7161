package pgidem

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// withQuietLiveness leads the liveness connection past the faults and keeps the janitor from looking now and then, so that
// what is counted is what a call costs.
func withQuietLiveness() option {
	return func(b *bundle, c *Config, _ *pgxpool.Config) {
		c.LivenessDSN = b.db.URL()
		c.PingInterval = time.Hour
	}
}

// warmDo runs some operations of several steps, so that statements are prepared, and the client has probed and has its instance.
func (b *bundle) warmDo(client *Client) {
	b.Helper()
	key := Key{Scope: "warm", ID: NewID()}
	warm := func() (Result[string], error) {
		return Do(b.Context(), client, key, func(ctx context.Context, op *Op) (string, error) {
			_, err := StepTx(ctx, op, "first", b.warmUp)
			if err != nil {
				return "", err
			}
			_, err = Step(ctx, op, "call", func(context.Context, StepContext) (string, error) { return "", nil }, &StepOpts[string]{AtMostOnce: true})
			if err != nil {
				return "", err
			}
			return FinishTx(ctx, op, "last", b.warmUp)
		})
	}
	b.must(warm())
	b.must(Do(b.Context(), client, Key{"warm", NewID()}, func(context.Context, *Op) (string, error) { return "", nil }))
	b.must(Do(b.Context(), client, key, func(context.Context, *Op) (string, error) { return "", nil }, &DoOpts{Retry: true}))
	b.must(warm())
}

// The cost budget of operations of several steps, counted at the wire on warm connections. The liveness connection is
// one per client and not counted.
func TestDoCost(t *testing.T) {
	for name, mode := range queryModes {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPoolOfOne(), withQuietLiveness(), withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }))
			b.warmDo(b.client)
			do := func(fn func(context.Context, *Op) (string, error), opts *DoOpts) func() error {
				return func() error { return second(Do(b.Context(), b.client, b.key, fn, opts)) }
			}
			fresh := func(what string, roundTrips, commits int, fn func(context.Context, *Op) (string, error), opts *DoOpts) {
				b.Helper()
				b.key = Key{"cost", NewID()}
				b.wantCost(what, roundTrips, commits, do(fn, opts))
				b.wantState(stateSucceeded)
			}
			startsWithTx := &DoOpts{StartsWithTx: true}

			fresh("tx, call, tx behind StartsWithTx", 3+1+3, 3, (&ride{b: b}).run, startsWithTx)
			b.wantEffects(2)
			b.wantCost("a replay", 2, 0, do((&ride{b: b}).run, nil))
			b.wantCost("a known retry", 1, 0, do((&ride{b: b}).run, &DoOpts{Retry: true}))
			b.wantEffects(2)

			fresh("the same with statements that travel", 2+1+2, 3, b.travelling, startsWithTx)
			b.wantEffects(2)
			fresh("tx, call, tx", 2+3+1+3, 4, (&ride{b: b}).run, nil)
			fresh("tx, call, no FinishTx", 3+1+1, 3, b.unfinishedRide(nil), startsWithTx)
			fresh("a call that is intended", 3+2+1, 4, b.unfinishedRide(&StepOpts[string]{AtMostOnce: true}), startsWithTx)
			fresh("no step", 2+1, 2, func(context.Context, *Op) (string, error) { return "nothing", nil }, nil)
			fresh("no step behind StartsWithTx", 2, 1, func(context.Context, *Op) (string, error) { return "nothing", nil }, startsWithTx)
		})
	}
}

// travelling is tx, call, tx, with the statements of both transactions handed over.
func (b *bundle) travelling(ctx context.Context, op *Op) (string, error) {
	insert := func(_ context.Context, tx Tx) (string, error) {
		return "", tx.Last("INSERT INTO effects (key) VALUES ($1)", b.key.ID)
	}
	if _, err := StepTx(ctx, op, "first", insert); err != nil {
		return "", err
	}
	if _, err := Step(ctx, op, "call", func(context.Context, StepContext) (string, error) { return "", nil }); err != nil {
		return "", err
	}
	return FinishTx(ctx, op, "last", insert)
}

// unfinishedRide is tx, call, and a result that the function returns.
func (b *bundle) unfinishedRide(opts *StepOpts[string]) func(context.Context, *Op) (string, error) {
	return func(ctx context.Context, op *Op) (string, error) {
		created, err := StepTx(ctx, op, "create", b.effect("created"))
		if err != nil {
			return "", err
		}
		charge, err := Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "charged", nil }, opts)
		return created + ", " + charge, err
	}
}

// What happens behind a failure costs one commit: the release of what was begun, and nothing where nothing was.
func TestDoCostOfAFailure(t *testing.T) {
	b := setup(t, withPoolOfOne(), withQuietLiveness())
	b.warmDo(b.client)
	down := errors.New("the provider is down")
	expect := func(err error) error {
		if !errors.Is(err, down) {
			return fmt.Errorf("got %w, want the step's own error", err)
		}
		return nil
	}
	failing := func(context.Context, *Op) (string, error) { return "", down }
	b.must(nil, expect(second(Do(b.Context(), b.client, Key{"warm", NewID()}, failing))))
	b.wantCost("nothing was begun", 2+1, 2, func() error { return expect(second(Do(b.Context(), b.client, b.key, failing))) })
	b.wantState("")
	r := ride{b: b, call: func(context.Context, StepContext) (string, error) { return "", down }}
	b.must(nil, expect(second(Do(b.Context(), b.client, Key{"warm", NewID()}, r.run))))
	b.wantCost("the call has failed behind a transaction", 3+1, 2, func() error {
		return expect(second(Do(b.Context(), b.client, b.key, r.run, &DoOpts{StartsWithTx: true})))
	})
	b.wantState(stateReleased)
	r.call = nil
	b.must(Do(b.Context(), b.client, Key{"warm", NewID()}, r.run))
	b.must(nil, b.takeOnce(&r))
	b.wantCost("resumed behind it", 3+1+3, 3, func() error { return second(Do(b.Context(), b.client, b.key, r.run)) })
	b.wantState(stateSucceeded)
}

// takeOnce prepares the statements of a takeover: it releases another operation and resumes it.
func (b *bundle) takeOnce(r *ride) error {
	key, calls := Key{"warm", NewID()}, r.calls
	once := ride{b: b, call: func(context.Context, StepContext) (string, error) { return "", errors.New("not yet") }}
	if _, err := Do(b.Context(), b.client, key, once.run); err == nil {
		return errors.New("the first call has succeeded")
	}
	_, err := Do(b.Context(), b.client, key, r.run)
	r.calls = calls
	return err
}
