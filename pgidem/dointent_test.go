package pgidem

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// charging is an operation whose one call has its intent recorded. What the call does, and what the provider says when it is asked, is
// the test's.
type charging struct {
	b           *bundle
	opts        StepOpts[string]
	call        func(ctx context.Context) error
	answer      func(ctx context.Context) (Reconciled[string], error)
	calls, asks int
	keys        []string // that the provider has seen
}

func (b *bundle) charging(opts StepOpts[string]) *charging {
	c := &charging{b: b, opts: opts}
	if !opts.AtMostOnce {
		c.opts.Reconcile = func(ctx context.Context, s StepContext) (Reconciled[string], error) {
			c.asks++
			c.keys = append(c.keys, s.Key())
			return c.answer(ctx)
		}
	}
	return c
}

func (c *charging) run(ctx context.Context, op *Op) (string, error) {
	return Step(ctx, op, "charge", func(ctx context.Context, s StepContext) (string, error) {
		c.calls++
		c.keys = append(c.keys, s.Key())
		if c.call == nil {
			return "charged", nil
		}
		return "charged", c.call(ctx)
	}, &c.opts)
}

func (c *charging) do(opts ...*DoOpts) (Result[string], error) {
	return Do(c.b.Context(), c.b.client, c.b.key, c.run, opts...)
}

func (c *charging) want(calls, asks int) {
	c.b.Helper()
	if c.calls != calls || c.asks != asks {
		c.b.Errorf("%d calls and %d questions, want %d and %d", c.calls, c.asks, calls, asks)
	}
	if keys := slices.Compact(slices.Clone(c.keys)); len(keys) > 1 {
		c.b.Errorf("downstream keys %q, want one", c.keys)
	}
}

// intents is how many calls of the key are recorded as begun and not as done.
func (b *bundle) intents() int {
	b.Helper()
	return one[int](b, b.observe(), "SELECT count(*) FROM idempotency_steps WHERE scope = $1 AND id = $2 AND recorded_at IS NULL", b.key.Scope, b.key.ID)
}

// letDeadlinePass makes it an hour later for the key's call.
func (b *bundle) letDeadlinePass() {
	b.Helper()
	b.must(b.observe().Exec(b.Context(), "UPDATE idempotency_steps SET deadline = deadline - interval '1 hour' WHERE scope = $1 AND id = $2",
		b.key.Scope, b.key.ID))
}

func TestAtMostOnce(t *testing.T) {
	b := setup(t)
	down := errors.New("down")
	gone := errors.New("the caller has gone")
	b.each("Succeeds", func(b *bundle) {
		c := b.charging(StepOpts[string]{AtMostOnce: true})
		c.call = func(context.Context) error {
			if b.intents() != 1 {
				b.Error("the call is made and no intent is committed")
			}
			return nil
		}
		got, err := c.do()
		b.wantResult(got, err, "charged", false)
		got, err = c.do()
		b.wantResult(got, err, "charged", true)
		c.want(1, 0)
		if b.intents() != 0 {
			b.Error("the intent is left")
		}
	})
	for name, call := range map[string]func(ctx context.Context, cancel func(error)) error{
		"PlainError": func(context.Context, func(error)) error { return down },
		"Unknown":    func(context.Context, func(error)) error { return Unknown(down) },
		"Cancelled":  func(_ context.Context, cancel func(error)) error { cancel(gone); return down },
		"TimeOver":   func(ctx context.Context, _ func(error)) error { <-ctx.Done(); return errors.Join(down, ctx.Err()) },
	} {
		b.each(name, func(b *bundle) {
			c := b.charging(StepOpts[string]{AtMostOnce: true, Timeout: time.Second})
			ctx, cancel := context.WithCancelCause(b.Context())
			defer cancel(nil)
			c.call = func(ctx context.Context) error { return call(ctx, cancel) }
			_, err := Do(ctx, b.client, b.key, c.run)
			b.wantError(err, ErrParked)
			if !errors.Is(err, down) {
				b.Errorf("got %v, want it to have the call's error", err)
			}
			c.call = nil
			_, err = c.do()
			b.wantError(err, ErrParked)
			c.want(1, 0)
			if b.intents() != 1 {
				b.Error("it is not recorded which call is in doubt")
			}
		})
	}
	b.each("DefiniteError", func(b *bundle) {
		c := b.charging(StepOpts[string]{AtMostOnce: true})
		c.call = func(context.Context) error { return Permanent(errDeclined) }
		_, err := c.do()
		b.wantFailure(err, errDeclined, true)
		_, err = c.do()
		b.wantFailure(err, errDeclined, false)
		c.want(1, 0)
	})
}

// The owner dies in its call. Its successor does not call, and the late answer is not saved.
func TestAtMostOnceInterrupted(t *testing.T) {
	var m mortal
	b := setup(t, m.option())
	other, _, _ := b.newClient()
	c := b.charging(StepOpts[string]{AtMostOnce: true})
	c.call = func(context.Context) error {
		m.die(b, b.client)
		_, err := Do(b.Context(), other, b.key, c.run)
		b.wantError(err, ErrParked)
		return nil
	}
	_, err := c.do()
	b.wantError(err, ErrParked)
	c.want(1, 0)
	b.wantState(stateParked)
	if got := b.recorded(); len(got) != 0 {
		b.Errorf("recorded: %q", got)
	}
}

// A context that ends between the intent's COMMIT and the call withdraws the intent: nothing was called, so nothing is in doubt.
func TestIntentIsWithdrawnBeforeTheCall(t *testing.T) {
	b := setup(t)
	for name, opts := range map[string]StepOpts[string]{
		"AtMostOnce": {AtMostOnce: true},
		"Reconcile":  {Timeout: time.Hour},
	} {
		for _, behind := range []string{"", "create"} {
			b.each(name+behind, func(b *bundle) {
				c := b.charging(opts)
				gone := errors.New("the caller has gone")
				ctx, cancel := context.WithCancelCause(b.Context())
				defer cancel(nil)
				fn := func(ctx context.Context, op *Op) (string, error) {
					if behind != "" {
						if _, err := StepTx(ctx, op, behind, b.effect("")); err != nil {
							return "", err
						}
					}
					return c.run(ctx, op)
				}
				held := b.faults.Hold(faultconn.Point{SQL: "intent_at, deadline"})
				first := async(b, func() (Result[string], error) { return Do(ctx, b.client, b.key, fn) })
				b.reached(held)
				cancel(gone)
				held.Release()
				if _, err := wait(first); !errors.Is(err, gone) {
					b.Fatalf("got %v, want the cause", err)
				}
				c.want(0, 0)
				if b.intents() != 0 {
					b.Error("an intent is left of a call that was not made")
				}
				b.wantState(map[string]string{"": "", "create": stateReleased}[behind])
				got, err := Do(b.Context(), b.client, b.key, fn)
				b.wantResult(got, err, "charged", false)
				c.want(1, 0)
			})
		}
	}
}

// doubts are the ways in which a call leaves its outcome open.
var doubts = map[string]func(ctx context.Context) error{
	"PlainError": func(context.Context) error { return errors.New("no answer") },
	"Unknown":    func(context.Context) error { return Unknown(errors.New("no answer")) },
	"TimeOver":   func(context.Context) error { return context.DeadlineExceeded },
}
