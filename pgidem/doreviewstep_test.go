package pgidem

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// The findings of the design's first review that are about what a function does with its steps, by their numbers.

// review 5: what became of a call is asked only when it can no longer take effect, by the database's clock; a caller that does not
// wait so long is told when to come again, and keeps no claim.
func TestReview05ReconcileWaitsForTheDeadline(t *testing.T) {
	b := setup(t)
	asked, calls := 0, 0
	var keys []string
	charge := func(call standStill, timeout time.Duration) func(context.Context, *Op) (string, error) {
		return func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "charge", call, &StepOpts[string]{
				Timeout: timeout,
				Reconcile: func(ctx context.Context, s StepContext) (Reconciled[string], error) {
					asked++
					keys = append(keys, s.Key())
					if !one[bool](b, b.observe(), "SELECT clock_timestamp() >= deadline FROM idempotency_steps WHERE id = $1", b.key.ID) {
						b.Error("asked before the deadline")
					}
					return Reconciled[string]{Outcome: ReconcileAbsent}, nil
				},
			})
		}
	}
	z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) { return charge(call, 5*time.Second) }, nil)
	taker := charge(func(_ context.Context, s StepContext) (string, error) {
		calls++
		keys = append(keys, s.Key())
		return "charged", nil
	}, 5*time.Second)
	_, err := Do(b.Context(), b.client, b.key, taker, &DoOpts{WaitBound: NoWait})
	if one[bool](b, b.observe(), "SELECT clock_timestamp() < deadline FROM idempotency_steps WHERE id = $1", b.key.ID) {
		b.wantError(err, ErrInProgress)
		var e *Error
		if !errors.As(err, &e) || e.RetryAfter <= 0 || asked != 0 {
			b.Errorf("retry after %v, asked %d times; want some time, and 0", e.RetryAfter, asked)
		}
		if in := b.client.liveness.get(); in != nil && one[bool](b, b.observe(), "SELECT coalesce(owner = $1, false) FROM idempotency_keys WHERE id = $2", in.id, b.key.ID) {
			b.Error("the caller has gone and keeps the claim")
		}
	}
	got, err := Do(b.Context(), b.client, b.key, taker, &DoOpts{WaitBound: time.Minute})
	b.wantResult(got, err, "charged", got.Replayed)
	if asked != 1 || calls != 1 || keys[0] != keys[1] {
		b.Errorf("asked %d times, called %d times with keys %v; want 1, 1, and one key", asked, calls, keys)
	}
	z.goOn()
	a := <-z.answer
	b.wantResult(a.Result, a.err, "charged", true)
}

// unsavable are results that cannot be saved, or that no replay could read.
type (
	unencodable struct{ Text string }
	unreadable  struct{ Text string }
)

func (unencodable) MarshalJSON() ([]byte, error) { return nil, errors.New("not to be written") }
func (*unreadable) UnmarshalJSON(_ []byte) error { return errors.New("not to be read") }

// review 9: a call whose result cannot be saved has happened: it parks, and is never made again. Behind a text that the database does
// not take, too.
func TestReview09UnsavableResultParks(t *testing.T) {
	for name, step := range map[string]func(ctx context.Context, op *Op, calls *int) error{
		"Encode": func(ctx context.Context, op *Op, calls *int) error {
			_, err := Step(ctx, op, "charge", func(context.Context, StepContext) (unencodable, error) { *calls++; return unencodable{}, nil })
			return err
		},
		"Decode": func(ctx context.Context, op *Op, calls *int) error {
			_, err := Step(ctx, op, "charge", func(context.Context, StepContext) (unreadable, error) { *calls++; return unreadable{}, nil })
			return err
		},
		"TooLarge": func(ctx context.Context, op *Op, calls *int) error {
			_, err := Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) {
				*calls++
				return strings.Repeat("x", DefaultMaxResultBytes), nil
			})
			return err
		},
		"NUL": func(ctx context.Context, op *Op, calls *int) error {
			_, err := Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) {
				*calls++
				return "", Unknown(errors.New("no \x00 answer \xff"))
			})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			calls := 0
			for range 2 {
				_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) { return "", step(ctx, op, &calls) })
				b.wantError(err, ErrParked)
			}
			if calls != 1 {
				b.Errorf("%d calls, want 1", calls)
			}
			b.wantState(stateParked)
		})
	}
}

// review 9: in a transaction it is rolled back, and may be tried again.
func TestReview09UnsavableResultOfATransactionIsRolledBack(t *testing.T) {
	for name, run := range map[string]func(ctx context.Context, op *Op, b *bundle) (unreadable, error){
		"StepTx": func(ctx context.Context, op *Op, b *bundle) (unreadable, error) {
			return StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (unreadable, error) {
				return unreadable{}, second(b.effect("")(ctx, tx))
			})
		},
		"FinishTx": func(ctx context.Context, op *Op, b *bundle) (unreadable, error) {
			return FinishTx(ctx, op, "create", func(ctx context.Context, tx Tx) (unreadable, error) {
				return unreadable{}, second(b.effect("")(ctx, tx))
			})
		},
		"Finish": func(context.Context, *Op, *bundle) (unreadable, error) { return unreadable{}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (unreadable, error) { return run(ctx, op, b) })
			b.wantError(err, ErrResult)
			b.wantEffects(0)
			b.wantState("")
		})
	}
}

// review 12: that the operation is undone is committed before the first step is taken back. Whoever resumes it goes on with that, and
// does not try the step again that had failed, whatever the function does with the error.
func TestReview12UndoIsCommittedFirst(t *testing.T) {
	b := setup(t)
	tries, undos := 0, 0
	fn := func(undo func(), fail func() error) func(context.Context, *Op) (string, error) {
		return func(ctx context.Context, op *Op) (string, error) {
			_, err := Step(ctx, op, "reserve", func(context.Context, StepContext) (string, error) { return "", nil }, &StepOpts[string]{
				Undo: func(context.Context, StepContext, string) error { undo(); return nil },
			})
			if err != nil {
				return "", err
			}
			charge, err := Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { tries++; return "charged", fail() })
			if err != nil && !errors.Is(err, ErrUndoing) {
				return "", err
			}
			return charge, nil // the error of the resumed run is swallowed
		}
	}
	z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) {
		return fn(func() { _, _ = call(context.Background(), StepContext{}) }, func() error { return Permanent(errDown) })
	}, nil)
	b.wantState(stateUndoing)
	_, err := Do(b.Context(), b.client, b.key, fn(func() { undos++ }, func() error { return nil }))
	var failure *Failure
	if !errors.As(err, &failure) || tries != 1 || undos != 1 {
		b.Errorf("got %v, %d tries, %d undos; want the failure, 1, 1", err, tries, undos)
	}
	z.goOn()
	if a := <-z.answer; !errors.As(a.err, &failure) {
		b.Errorf("the old owner got %+v, want the failure", a)
	}
	b.wantState(stateFailed)
}

// review 19: a function that is left by Goexit leaves nothing that looks alive.
func TestReview19GoexitReleases(t *testing.T) {
	b := setup(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			if _, err := StepTx(ctx, op, "create", b.effect("created")); err != nil {
				return "", err
			}
			runtime.Goexit()
			return "", nil
		})
	}()
	<-done
	b.wantState(stateReleased)
	if n := b.client.registry.count(); n != 0 {
		b.Errorf("%d operations are registered, want none", n)
	}
	other, _, _ := b.newClient()
	r := ride{b: b}
	got, err := Do(b.Context(), other, b.key, r.run, &DoOpts{WaitBound: NoWait})
	b.wantResult(got, err, rideResult, false)
	b.wantEffects(2)
}

// review 22: what comes before the first step holds neither a connection nor the key's lock, unless StartsWithTx asks for it.
func TestReview22PrologueHoldsNoConnection(t *testing.T) {
	b := setup(t, withPoolOfOne(), withConfig(func(c *Config) { c.WaitBound = time.Minute }))
	const callers = 4
	met := newRendezvous(callers)
	var answers []<-chan answer[string]
	for range callers {
		key := Key{"prologue", NewID()}
		answers = append(answers, async(b, func() (Result[string], error) {
			return Do(b.Context(), b.client, key, func(ctx context.Context, op *Op) (string, error) {
				met.wait(ctx) // all of them are claimed
				if _, err := b.pool.Exec(ctx, "SELECT 1"); err != nil {
					return "", err
				}
				if !one[bool](b, b.observe(), "SELECT pg_try_advisory_xact_lock($1)", key.lock()) {
					return "", errors.New("the prologue holds the key's lock")
				}
				return FinishTx(ctx, op, "create", b.effect("created"))
			})
		}))
	}
	for _, answers := range answers {
		a := <-answers
		b.wantResult(a.Result, a.err, "created", false)
	}
	b.wantEffects(callers)
	_, err := Do(b.Context(), b.client, b.key, (&ride{b: b}).runFromTheCall, &DoOpts{StartsWithTx: true})
	b.wantError(err, ErrOpMisuse)
	b.wantState("")
}

// runFromTheCall begins with the call.
func (r *ride) runFromTheCall(ctx context.Context, op *Op) (string, error) {
	return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { r.calls++; return "charged", nil })
}

// review 22: two steps of one operation at once are refused.
func TestReview22ConcurrentStepsAreRefused(t *testing.T) {
	b := setup(t)
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "charge", func(ctx context.Context, _ StepContext) (string, error) {
			refused := make(chan error)
			var ran sync.WaitGroup
			ran.Go(func() {
				_, err := Step(ctx, op, "second", func(context.Context, StepContext) (string, error) { panic("two at once") })
				refused <- err
			})
			err := <-refused
			ran.Wait()
			b.wantError(err, ErrOpMisuse)
			return "charged", nil
		})
	})
	b.wantResult(got, err, "charged", false)
}

// review 25: FinishTx's result is the operation's, so its type is compared before the transaction, and what the function returns behind it,
// or tries to do, does not count.
func TestReview25FinishTxHasTheLastWord(t *testing.T) {
	for name, behind := range map[string]func(ctx context.Context, op *Op) (string, error){
		"Value":     func(context.Context, *Op) (string, error) { return "another", nil },
		"Error":     func(context.Context, *Op) (string, error) { return "", errDown },
		"Permanent": func(context.Context, *Op) (string, error) { return "", Permanent(errDown) },
		"Step": func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "late", func(context.Context, StepContext) (string, error) { panic("behind FinishTx") })
		},
		"FinishTx": func(ctx context.Context, op *Op) (string, error) {
			return FinishTx(ctx, op, "late", func(context.Context, Tx) (string, error) { panic("behind FinishTx") })
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPool(func(p *pgxpool.Config) { p.MaxConns = 2 }))
			fn := func(ctx context.Context, op *Op) (string, error) {
				if _, err := FinishTx(ctx, op, "receipt", b.effect("receipt")); err != nil {
					return "", err
				}
				return behind(ctx, op)
			}
			got, err := Do(b.Context(), b.client, b.key, fn)
			b.wantResult(got, err, "receipt", false)
			got, err = Do(b.Context(), b.client, b.key, fn)
			b.wantResult(got, err, "receipt", true)
			b.wantEffects(1)
		})
	}
	t.Run("Type", func(t *testing.T) {
		b := setup(t)
		_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			_, err := FinishTx(ctx, op, "receipt", func(context.Context, Tx) (int, error) { panic("of another type") })
			return "", err
		})
		b.wantError(err, ErrOpMisuse)
		b.wantState("")
	})
}
