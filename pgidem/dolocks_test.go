package pgidem

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// counter counts the steps of rides that run at once.
type counter struct{ creates, calls, ends atomic.Int32 }

func (n *counter) ride(b *bundle, inCall func(ctx context.Context)) func(context.Context, *Op) (string, error) {
	return func(ctx context.Context, op *Op) (string, error) {
		_, err := StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
			n.creates.Add(1)
			return b.effect("created")(ctx, tx)
		})
		if err != nil {
			return "", err
		}
		charge, err := Step(ctx, op, "charge", func(ctx context.Context, _ StepContext) (string, error) {
			n.calls.Add(1)
			inCall(ctx)
			return NewID(), nil
		})
		if err != nil {
			return "", err
		}
		return FinishTx(ctx, op, "receipt", func(ctx context.Context, tx Tx) (string, error) {
			n.ends.Add(1)
			return b.effect(charge)(ctx, tx)
		})
	}
}

// G1 and G5 without any lock of a key: the unique row lets one of many begin, and the claim token one of many take over.
func TestG1WithoutLocksOfSteps(t *testing.T) {
	for name, opts := range map[string]*DoOpts{"Plain": {}, "StartsWithTx": {StartsWithTx: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			const clients, keys = 4, 8
			all := []*Client{b.client}
			for range clients - 1 {
				client, _, _ := b.newClient()
				all = append(all, client)
			}
			for range keys {
				b.key = Key{Scope: "nolocks", ID: NewID()}
				var n counter
				var answers []<-chan answer[string]
				for _, client := range all {
					withoutLocks(client)
					run := n.ride(b, func(context.Context) {})
					answers = append(answers, async(b, func() (Result[string], error) { return Do(b.Context(), client, b.key, run, opts) }))
				}
				b.wantOneOf(answers)
				if calls := n.calls.Load(); calls != 1 {
					b.Errorf("%d calls, want 1", calls)
				}
				b.wantEffects(2)
			}
		})
	}
}

func TestOneOfManyTakesOverWithoutLocks(t *testing.T) {
	var refuse atomic.Bool
	b := setup(t, withPool(func(p *pgxpool.Config) {
		p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if refuse.Load() {
				return errors.New("no new connections for the zombie")
			}
			return nil
		}
	}))
	var n counter
	inCall, goOn := make(chan struct{}), make(chan struct{})
	first := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, b.key, n.ride(b, func(context.Context) {
			close(inCall)
			<-goOn
		}))
	})
	<-inCall
	refuse.Store(true)
	b.killLiveness(b.client)
	var answers []<-chan answer[string]
	for range 4 {
		client, _, _ := b.newClient()
		withoutLocks(client)
		run := n.ride(b, func(context.Context) {})
		answers = append(answers, async(b, func() (Result[string], error) { return Do(b.Context(), client, b.key, run) }))
	}
	value := b.wantOneOf(answers)
	close(goOn)
	a := <-first
	b.wantResult(a.Result, a.err, value, true)
	if n.creates.Load() != 1 || n.calls.Load() != 2 || n.ends.Load() != 1 {
		t.Errorf("the steps ran %d, %d and %d times, want 1, 2 (one of them the zombie's) and 1", n.creates.Load(), n.calls.Load(), n.ends.Load())
	}
	b.wantEffects(2)
	refuse.Store(false)
}

// wantOneOf wants one caller to have run the operation and all to have its result.
func (b *bundle) wantOneOf(answers []<-chan answer[string]) string {
	b.Helper()
	fresh, value := 0, ""
	for _, answers := range answers {
		a := <-answers
		if a.err != nil {
			b.Fatal(a.err)
		}
		if !a.Replayed {
			fresh++
		}
		if value != "" && a.Value != value {
			b.Errorf("one caller got %s, another %s", value, a.Value)
		}
		value = a.Value
	}
	if fresh != 1 {
		b.Errorf("%d callers say that they ran the key, want 1", fresh)
	}
	return value
}
