package pgidem

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestReconcile(t *testing.T) {
	b := setup(t)
	for doubt, call := range doubts {
		scenario := func(name string, run func(b *bundle, c *charging)) {
			b.each(doubt+"/"+name, func(b *bundle) {
				c := b.charging(StepOpts[string]{Timeout: time.Hour})
				c.call = call
				_, err := c.do()
				if err == nil || errors.Is(err, ErrParked) {
					b.Fatalf("got %v, want the call's error", err)
				}
				c.want(1, 0)
				b.wantState(stateReleased)
				b.letDeadlinePass()
				c.call = nil
				run(b, c)
			})
		}
		scenario("Done", func(b *bundle, c *charging) {
			c.answer = func(context.Context) (Reconciled[string], error) {
				return Reconciled[string]{Outcome: ReconcileDone, Value: "charged before"}, nil
			}
			got, err := c.do()
			b.wantResult(got, err, "charged before", false)
			c.want(1, 1)
		})
		scenario("Absent", func(b *bundle, c *charging) {
			c.answer = func(context.Context) (Reconciled[string], error) {
				return Reconciled[string]{Outcome: ReconcileAbsent}, nil
			}
			got, err := c.do()
			b.wantResult(got, err, "charged", false)
			c.want(2, 1)
		})
		scenario("Unknown", func(b *bundle, c *charging) {
			c.answer = func(context.Context) (Reconciled[string], error) { return Reconciled[string]{}, nil }
			for range 2 {
				_, err := c.do()
				b.wantError(err, ErrParked)
			}
			c.want(1, 1)
		})
		scenario("Error", func(b *bundle, c *charging) {
			down := errors.New("down")
			c.answer = func(context.Context) (Reconciled[string], error) {
				return Reconciled[string]{Outcome: ReconcileAbsent}, down
			}
			for range 2 {
				if _, err := c.do(); !errors.Is(err, down) {
					b.Fatalf("got %v, want the provider's error", err)
				}
				b.wantState(stateReleased)
			}
			c.answer = func(context.Context) (Reconciled[string], error) {
				return Reconciled[string]{Outcome: ReconcileDone}, nil
			}
			got, err := c.do()
			b.wantResult(got, err, "", false)
			c.want(1, 3)
		})
		scenario("Definite", func(b *bundle, c *charging) {
			c.answer = func(context.Context) (Reconciled[string], error) { return Reconciled[string]{}, Permanent(errDeclined) }
			_, err := c.do()
			b.wantFailure(err, errDeclined, true)
			c.want(1, 1)
			b.wantState(stateFailed)
		})
	}
}

// The provider is not asked while the call may still take effect.
func TestReconcileNotBeforeTheDeadline(t *testing.T) {
	b := setup(t)
	lost := func(context.Context) error { return Unknown(errors.New("no answer")) }
	b.each("BeyondTheWaitBound", func(b *bundle) {
		c := b.charging(StepOpts[string]{Timeout: time.Hour})
		c.call = lost
		_, _ = c.do()
		for _, bound := range []time.Duration{NoWait, time.Second} {
			_, err := c.do(&DoOpts{WaitBound: bound})
			b.wantError(err, ErrInProgress)
			var e *Error
			if !errors.As(err, &e) || e.RetryAfter <= 30*time.Minute || e.RetryAfter > time.Hour {
				b.Errorf("got %+v, want a hint of nearly an hour", e)
			}
			b.wantState(stateReleased)
		}
		c.want(1, 0)
	})
	b.each("WithinTheWaitBound", func(b *bundle) {
		c := b.charging(StepOpts[string]{Timeout: 3 * time.Second})
		c.call = lost
		_, _ = c.do()
		c.answer = func(context.Context) (Reconciled[string], error) {
			if !one[bool](b, b.observe(), "SELECT deadline <= clock_timestamp() FROM idempotency_steps WHERE id = $1", b.key.ID) {
				b.Error("it is asked too early")
			}
			return Reconciled[string]{Outcome: ReconcileDone, Value: "charged before"}, nil
		}
		got, err := c.do(&DoOpts{WaitBound: time.Minute})
		b.wantResult(got, err, "charged before", false)
		c.want(1, 1)
	})
	b.each("EachCallHasItsOwn", func(b *bundle) {
		c := b.charging(StepOpts[string]{}) // half a minute
		c.call = func(ctx context.Context) error {
			if until, ok := ctx.Deadline(); !ok || time.Until(until) > DefaultReconcileTimeout {
				b.Errorf("the call may take until %v, %v", until, ok)
			}
			return lost(ctx)
		}
		_, _ = c.do()
		b.letDeadlinePass()
		c.opts.Timeout = time.Hour
		c.answer = func(context.Context) (Reconciled[string], error) {
			return Reconciled[string]{Outcome: ReconcileAbsent}, nil
		}
		c.call = func(context.Context) error {
			if !one[bool](b, b.observe(), "SELECT deadline > clock_timestamp() + interval '30 min' FROM idempotency_steps WHERE id = $1", b.key.ID) {
				b.Error("a further call runs under the deadline of the first one")
			}
			return lost(nil)
		}
		_, err := c.do()
		if err == nil || errors.Is(err, ErrInProgress) {
			b.Errorf("got %v, want the second call's error", err)
		}
		c.want(2, 1)
		_, err = c.do(&DoOpts{WaitBound: NoWait})
		b.wantError(err, ErrInProgress)
		c.want(2, 1)
	})
	b.each("InPlace", func(b *bundle) { // Retry calls again in the same run, which has to ask first too
		c := b.charging(StepOpts[string]{Timeout: 3 * time.Second, Retry: func(try int, _ error) (time.Duration, bool) { return 0, try < 2 }})
		down := errors.New("down")
		c.call = func(context.Context) error { return down }
		c.answer = func(context.Context) (Reconciled[string], error) {
			return Reconciled[string]{Outcome: ReconcileAbsent}, nil
		}
		if _, err := c.do(); !errors.Is(err, down) {
			b.Errorf("got %v, want the last call's error", err)
		}
		c.want(2, 1)
	})
}

// Whatever a function makes of the error: while nobody knows what became of a call, the operation does not fail for good.
func TestDoubtIsNoFailure(t *testing.T) {
	b := setup(t)
	for doubt, call := range doubts {
		b.each(doubt, func(b *bundle) {
			c := b.charging(StepOpts[string]{Timeout: time.Hour})
			c.call = call
			definite := func(ctx context.Context, op *Op) (string, error) {
				got, err := c.run(ctx, op)
				return got, Permanent(err)
			}
			_, err := Do(b.Context(), b.client, b.key, definite)
			b.wantError(err, ErrUnknownOutcome)
			if f := (*Failure)(nil); errors.As(err, &f) || !strings.Contains(err.Error(), `"charge"`) {
				b.Errorf("got %v, %+v", err, f)
			}
			b.wantState(stateReleased)
			b.letDeadlinePass()
			c.answer = func(context.Context) (Reconciled[string], error) {
				return Reconciled[string]{Outcome: ReconcileDone, Value: "charged before"}, nil
			}
			got, err := Do(b.Context(), b.client, b.key, definite)
			b.wantResult(got, err, "charged before", false)
			c.want(1, 1)
		})
	}
	b.each("NotAskedFor", func(b *bundle) {
		c := b.charging(StepOpts[string]{Timeout: time.Hour})
		c.call = doubts["Unknown"]
		_, _ = c.do()
		b.letDeadlinePass()
		_, err := Do(b.Context(), b.client, b.key, func(context.Context, *Op) (string, error) { return "", Permanent(errDeclined) })
		b.wantError(err, ErrSteps)
		b.wantState(stateReleased)
	})
}

// The owner dies in its call, and the provider can be asked. The late answer of the call is not saved beside what was found out.
func TestReconcileAfterATakeover(t *testing.T) {
	var m mortal
	b := setup(t, m.option())
	other, _, _ := b.newClient()
	c := b.charging(StepOpts[string]{Timeout: time.Hour})
	c.answer = func(context.Context) (Reconciled[string], error) {
		return Reconciled[string]{Outcome: ReconcileDone, Value: "found"}, nil
	}
	c.call = func(context.Context) error {
		m.die(b, b.client)
		b.letDeadlinePass()
		got, err := Do(b.Context(), other, b.key, c.run)
		b.wantResult(got, err, "found", false)
		return nil
	}
	got, err := c.do()
	b.wantResult(got, err, "found", true)
	c.want(1, 1)
}
