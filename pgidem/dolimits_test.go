package pgidem

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"
)

func TestDoTimeouts(t *testing.T) {
	b := setup(t)
	ends := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	for _, place := range errandPlaces {
		b.each("Do/"+place, func(b *bundle) {
			e := b.errand()
			e.at[place] = ends
			_, err := e.do(&DoOpts{Timeout: 50 * time.Millisecond})
			if !errors.Is(err, context.DeadlineExceeded) {
				b.Fatalf("got %v, want DeadlineExceeded", err)
			}
			delete(e.at, place)
			got, err := e.do()
			b.wantResult(got, err, errandResult, false)
			b.wantEffects(2)
		})
	}
	b.each("Step", func(b *bundle) {
		calls := 0
		fn := func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "charge", func(ctx context.Context, _ StepContext) (string, error) {
				if calls++; calls > 1 {
					return "charged", nil
				}
				return "", ends(ctx)
			}, &StepOpts[string]{Timeout: time.Millisecond, Retry: func(_ int, err error) (time.Duration, bool) {
				return 0, errors.Is(err, context.DeadlineExceeded)
			}})
		}
		got, err := Do(b.Context(), b.client, b.key, fn)
		b.wantResult(got, err, "charged", false)
		if calls != 2 {
			b.Errorf("%d calls, want 2: the second has a time limit of its own", calls)
		}
	})
}

func TestStepRetry(t *testing.T) {
	b := setup(t)
	down := errors.New("down")
	type try struct {
		n   int
		err error
	}
	run := func(b *bundle, ctx context.Context, call func() error, retry func(int, error) (time.Duration, bool)) error {
		_, err := Do(ctx, b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "charged", call() },
				&StepOpts[string]{Retry: retry})
		})
		return err
	}
	b.each("UntilItGivesUp", func(b *bundle) {
		var tries []try
		err := run(b, b.Context(), func() error { return down }, func(n int, err error) (time.Duration, bool) {
			tries = append(tries, try{n, err})
			return time.Microsecond, n < 3
		})
		if !errors.Is(err, down) || !slices.Equal(tries, []try{{1, down}, {2, down}, {3, down}}) {
			b.Errorf("got %v after %v", err, tries)
		}
	})
	b.each("DefiniteIsFinal", func(b *bundle) {
		calls := 0
		err := run(b, b.Context(), func() error { calls++; return Permanent(down) }, func(int, error) (time.Duration, bool) { return 0, true })
		b.wantFailure(err, &Failure{Message: "down"}, true)
		if calls != 1 {
			b.Errorf("%d calls, want 1", calls)
		}
	})
	b.each("UnknownIsNotRepeated", func(b *bundle) {
		calls := 0
		err := run(b, b.Context(), func() error { calls++; return Unknown(down) }, func(int, error) (time.Duration, bool) { return 0, true })
		b.wantError(err, ErrParked)
		if calls != 1 {
			b.Errorf("%d calls, want 1", calls)
		}
	})
	b.each("TheContextEndsTheWait", func(b *bundle) {
		gone := errors.New("the caller has gone")
		ctx, cancel := context.WithCancelCause(b.Context())
		err := run(b, ctx, func() error { return down }, func(int, error) (time.Duration, bool) {
			cancel(gone)
			return time.Hour, true
		})
		if !errors.Is(err, gone) {
			b.Errorf("got %v, want the cause", err)
		}
	})
}

// An operation that is claimed again and again is stopped: each attempt may cost somebody something.
func TestDoAttemptsAreLimited(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.MaxAttempts = 3 }))
	for name, of := range map[string]struct {
		opts *DoOpts
		max  int
	}{"ByConfig": {nil, 3}, "ByCall": {&DoOpts{MaxAttempts: 1}, 1}} {
		b.each(name, func(b *bundle) {
			down := errors.New("down")
			e := b.errand()
			e.at["charge"] = func(context.Context) error { return down }
			for range of.max {
				if _, err := e.do(of.opts); !errors.Is(err, down) {
					b.Fatalf("got %v, want the step's error", err)
				}
			}
			for range 2 {
				_, err := e.do(of.opts)
				b.wantError(err, ErrParked)
			}
			if e.ran["charge"] != of.max {
				b.Errorf("%d calls, want %d", e.ran["charge"], of.max)
			}
			record, err := Lookup[string](b.Context(), b.client, b.key)
			if err != nil || record.State != stateParked || record.Parked == nil || record.Parked.Code != "attempts" ||
				record.Failure != nil || record.Attempt != of.max || record.RecoveryPoint != "create" {
				b.Errorf("looked up %+v, %v", record, err)
			}
		})
	}
}

// A key whose result has expired begins a new life: nothing of the old one is left in it.
func TestDoExpiry(t *testing.T) {
	b := setup(t)
	for name, opts := range starts {
		b.each(name, func(b *bundle) {
			e := b.errand()
			short := DoOpts{TTL: time.Millisecond}
			if opts != nil {
				short.StartsWithTx = opts.StartsWithTx
			}
			b.must(e.do(&short))
			b.until("it has expired", "SELECT expires_at < clock_timestamp() FROM idempotency_keys WHERE id = $1", b.key.ID)
			record, err := Lookup[string](b.Context(), b.client, b.key)
			if err != nil || !record.Expired || record.Value != errandResult {
				b.Errorf("looked up %+v, %v", record, err)
			}
			down := errors.New("down")
			e.at["charge"] = func(context.Context) error { return down }
			if _, err := e.do(opts); !errors.Is(err, down) {
				b.Fatalf("got %v", err)
			}
			if names := b.recorded(); !slices.Equal(names, []string{"create"}) {
				b.Errorf("recorded in the new life: %q, want create alone", names)
			}
			delete(e.at, "charge")
			got, err := e.do(opts)
			b.wantResult(got, err, errandResult, false)
			e.wantRan(map[string]int{"begin": 3, "create": 2, "charge": 3, "between": 2, "receipt": 2})
			if len(e.keys) != 3 || e.keys[0] == e.keys[1] || e.keys[1] != e.keys[2] {
				b.Errorf("downstream keys %q, want another one in the new life", e.keys)
			}
			b.wantEffects(4)
		})
	}
}
