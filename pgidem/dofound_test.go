package pgidem

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// A claim whose COMMIT is found behind a lost answer is tagged with new instances like any other.
func TestFoundFirstStepIsTaggedAnew(t *testing.T) {
	b := setup(t)
	b.warmDo(b.client)
	b.faults.RefuseCancel(true)
	point := faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Before}
	cut := b.faults.Cut(point)
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		if _, err := StepTx(ctx, op, "create", b.effect("created")); err != nil {
			return "", err
		}
		if !cut.Fired() {
			t.Error("the first step's COMMIT was not cut")
		}
		before := b.client.liveness.get()
		b.killLiveness(b.client)
		b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", before.id, b.key.ID)
		return "done", nil
	}, &DoOpts{StartsWithTx: true})
	b.wantResult(got, err, "done", false)
	b.wantEffects(1)
}

// A waiting caller gets the key's lock at the moment in which a step commits. By then the row must have the owner's new number: the
// tagger has passed over it while the step's transaction held it.
func TestStepTagsItsRowItself(t *testing.T) {
	b := setup(t)
	inStep, goOn := make(chan struct{}), make(chan struct{})
	var runs, calls atomic.Int32
	run := func(ctx context.Context, op *Op) (string, error) {
		_, err := StepTx(ctx, op, "long", func(ctx context.Context, tx Tx) (string, error) {
			if runs.Add(1) == 1 {
				close(inStep)
				<-goOn
			}
			return b.effect("")(ctx, tx)
		})
		if err != nil {
			return "", err
		}
		return Step(ctx, op, "call", func(ctx context.Context, _ StepContext) (string, error) {
			calls.Add(1)
			// Time for whoever waits to see a dead owner, if there is one to be seen.
			_, err := b.observe().Exec(ctx, "SELECT pg_sleep(0.3)")
			return "called", err
		})
	}
	owner := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, run) })
	<-inStep
	before := b.client.liveness.get()
	b.killLiveness(b.client)
	b.newInstance(b.client, before)
	other, _, _ := b.newClient()
	waiter := async(b, func() (Result[string], error) { return Do(b.Context(), other, b.key, run) })
	b.lockAwaited("the other process waits for the step's transaction", 1)
	close(goOn)
	a := <-owner
	b.wantResult(a.Result, a.err, "called", false)
	a = <-waiter
	b.wantResult(a.Result, a.err, "called", true)
	if calls.Load() != 1 || runs.Load() != 1 {
		t.Errorf("%d calls and %d transactions, want one each", calls.Load(), runs.Load())
	}
}

// A server that asks for a repetition of the first step finds the claim rolled back; an expired row is no claim of anybody's.
func TestFirstStepIsRunAgainOverAnExpiredKey(t *testing.T) {
	b := setup(t)
	b.must(Do(b.Context(), b.client, b.key, func(context.Context, *Op) (string, error) { return "old", nil }, &DoOpts{TTL: time.Microsecond}))
	bodies, steps := 0, 0
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		bodies++
		return StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
			if steps++; steps == 1 {
				return "", &pgconn.PgError{Code: serializationFailure, Severity: "ERROR"}
			}
			return b.effect("new")(ctx, tx)
		})
	}, &DoOpts{StartsWithTx: true})
	b.wantResult(got, err, "new", false)
	if bodies != 1 || steps != 2 {
		t.Errorf("the function ran %d times and its step %d times, want 1 and 2", bodies, steps)
	}
	b.wantEffects(1)
}

// The last COMMIT without an answer that a step may have is looked up like those before.
func TestLastUnansweredCommitOfAStepIsLookedUp(t *testing.T) {
	b := setup(t)
	b.warmDo(b.client)
	b.faults.RefuseCancel(true)
	runs := 0
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
			if runs++; runs <= maxRounds {
				b.faults.Cut(atCommit(faultconn.Before))
			} else {
				b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Before})
			}
			return b.effect("created")(ctx, tx)
		})
	})
	b.wantResult(got, err, "created", false)
	if runs != maxRounds+1 {
		t.Errorf("the step ran %d times, want %d", runs, maxRounds+1)
	}
	b.wantEffects(1)
}

// An intent whose COMMIT takes longer than the call may costs the call nothing where nobody will ask about it.
func TestSlowIntentLeavesTheCallItsTime(t *testing.T) {
	b := setup(t)
	b.warmDo(b.client)
	const timeout = 500 * time.Millisecond
	held := make(chan *faultconn.Fault, 1)
	calls := 0
	answers := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			held <- b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Before})
			return Step(ctx, op, "call", func(ctx context.Context, _ StepContext) (string, error) {
				calls++
				return "called", ctx.Err()
			}, &StepOpts[string]{AtMostOnce: true, Timeout: timeout})
		})
	})
	hold := <-held
	b.reached(hold)
	b.must(b.observe().Exec(b.Context(), "SELECT pg_sleep($1)", (2 * timeout).Seconds())) // longer than the call may take
	hold.Release()
	a := <-answers
	b.wantResult(a.Result, a.err, "called", false)
	if calls != 1 {
		t.Errorf("%d calls, want 1", calls)
	}
}

// Asking for a key whose call may still take effect is no attempt: an operation must not be parked by impatient callers.
func TestAskingBeforeTheDeadlineIsNoAttempt(t *testing.T) {
	b := setup(t)
	down := errors.New("503 from the provider")
	asked := 0
	run := func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "", down },
			&StepOpts[string]{Timeout: time.Hour, Reconcile: func(context.Context, StepContext) (Reconciled[string], error) {
				asked++
				return Reconciled[string]{Outcome: ReconcileAbsent}, nil
			}})
	}
	opts := &DoOpts{WaitBound: NoWait}
	if _, err := Do(b.Context(), b.client, b.key, run, opts); !errors.Is(err, down) {
		t.Fatalf("got %v, want the call's own error", err)
	}
	for range DefaultMaxAttempts + 1 {
		_, err := Do(b.Context(), b.client, b.key, run, opts)
		b.wantError(err, ErrInProgress)
		var e *Error
		if !errors.As(err, &e) || e.RetryAfter < 50*time.Minute {
			t.Errorf("got %v, want to be told to come back at the deadline", err)
		}
	}
	if attempt := one[int](b, b.observe(), "SELECT attempt FROM idempotency_keys WHERE id = $1", b.key.ID); attempt != 1 || asked != 0 {
		t.Errorf("attempt %d, asked %d times; want 1 and 0", attempt, asked)
	}
}

// With Retry and Reconcile a further call waits for the deadline of the one before; where that is behind the wait bound, the caller
// learns what the call has answered.
func TestRetryWithReconcileSaysWhatTheCallAnswered(t *testing.T) {
	b := setup(t)
	down := errors.New("503 from the provider")
	_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "", down },
			&StepOpts[string]{
				Timeout:   time.Hour,
				Reconcile: func(context.Context, StepContext) (Reconciled[string], error) { return Reconciled[string]{}, nil },
				Retry:     func(int, error) (time.Duration, bool) { return 0, true },
			})
	})
	b.wantError(err, ErrInProgress)
	if !errors.Is(err, down) {
		t.Errorf("got %v, want the call's error as the cause", err)
	}
}

// A release that waits for a lock, and is tried again and again, does not keep the rows of what runs from getting a new number.
func TestBackgroundWorkDoesNotDelayTagging(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.LockTimeout = time.Minute }))
	stuck := Key{Scope: b.key.Scope, ID: "stuck"}
	var unlock func()
	giveUp := errors.New("transient")
	blocked := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, stuck, func(ctx context.Context, op *Op) (string, error) {
			if _, err := StepTx(ctx, op, "one", b.effect("")); err != nil {
				return "", err
			}
			unlock = b.lockKey(stuck)
			return "", giveUp
		})
	})
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "call", func(context.Context, StepContext) (string, error) {
			b.lockAwaited("the release waits", 1)
			before := b.client.liveness.get()
			b.killLiveness(b.client)
			b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", before.id, b.key.ID)
			return "called", nil
		})
	})
	b.wantResult(got, err, "called", false)
	unlock()
	if a := <-blocked; !errors.Is(a.err, giveUp) {
		t.Errorf("got %v, want the function's error", a.err)
	}
}

// An operator may resume an undo although a call was refused for good: nothing about that is in doubt, and no call is made.
func TestUndoIsResumedBehindARefusedCall(t *testing.T) {
	b := setup(t)
	down := true
	run := func(ctx context.Context, op *Op) (string, error) {
		_, err := StepTx(ctx, op, "create", b.effect("created"), &StepOpts[string]{UndoTx: func(ctx context.Context, tx Tx, _ string) error {
			if down {
				return errors.New("the undo does not work")
			}
			_, err := tx.Exec(ctx, "DELETE FROM effects WHERE key = $1", b.key.ID)
			return err
		}})
		if err != nil {
			return "", err
		}
		return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) {
			return "", Permanent(&Failure{Code: "declined"})
		}, &StepOpts[string]{AtMostOnce: true})
	}
	for _, want := range []error{ErrUndoing, ErrUndoing, ErrParked} {
		_, err := Do(b.Context(), b.client, b.key, run, &DoOpts{MaxAttempts: 2})
		b.wantError(err, want)
	}
	record, err := Lookup[string](b.Context(), b.client, b.key)
	b.must(record, err)
	down = false
	b.must(nil, b.client.Resume(b.Context(), b.key, Decision{Claim: record.Claim, Reason: "the undo works again", Actor: "test"}))
	_, err = Do(b.Context(), b.client, b.key, run)
	var failure *Failure
	if !errors.As(err, &failure) || failure.Code != "declined" {
		t.Errorf("got %v, want the failure", err)
	}
	b.wantEffects(0)
	b.wantState(stateFailed)
}

// Where a mark is not committed yet, Do waits no longer for it than its caller wants.
func TestDoBesideAnUncommittedMark(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.LockTimeout = time.Hour }))
	tx, err := b.observe().Begin(b.Context())
	b.must(tx, err)
	defer func() { _ = tx.Rollback(b.Context()) }()
	b.must(MarkTx(b.Context(), b.client, tx, b.key.Scope, []string{b.key.ID}))
	for name, opts := range map[string]*DoOpts{"Plain": {WaitBound: NoWait}, "StartsWithTx": {WaitBound: NoWait, StartsWithTx: true}} {
		_, err = Do(b.Context(), b.client, b.key, (&ride{b: b}).run, opts)
		if !errors.Is(err, ErrInProgress) {
			t.Errorf("%s: got %v, want %v", name, err, ErrInProgress)
		}
	}
}

// What is told about a result that cannot be encoded does not say that its call was rolled back.
func TestParkedCallIsNotCalledRolledBack(t *testing.T) {
	b := setup(t)
	_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		_, err := Step(ctx, op, "charge", func(context.Context, StepContext) (func(), error) { return func() {}, nil })
		return "", err
	})
	b.wantError(err, ErrParked)
	record, lookupErr := Lookup[string](b.Context(), b.client, b.key)
	if lookupErr != nil || record.Parked == nil || strings.Contains(record.Parked.Details["error"]+err.Error(), "rolled back") {
		t.Errorf("got %v; parked %+v, %v", err, record.Parked, lookupErr)
	}
}

// An outcome of another kind is not handed over, by a caller in the same process or by a cache, any more than by the row.
func TestKindsAreComparedInMemory(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.Cache = NewMemoryCache(1 << 20) }))
	inside, goOn := make(chan struct{}), make(chan struct{})
	first := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, b.key, func(context.Context, *Op) (string, error) {
			close(inside)
			<-goOn
			return "steps", nil
		})
	})
	<-inside
	second := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("tx")) })
	b.joined(1)
	close(goOn)
	a := <-first
	b.wantResult(a.Result, a.err, "steps", false)
	if a := <-second; !errors.Is(a.err, ErrKeyReused) {
		t.Errorf("a caller that waited in memory got %+v, want %v", a, ErrKeyReused)
	}
	if got, err := DoTx(b.Context(), b.client, b.key, b.effect("tx")); !errors.Is(err, ErrKeyReused) {
		t.Errorf("from the cache a caller got %+v, %v; want %v", got, err, ErrKeyReused)
	}
	got, err := Do(b.Context(), b.client, b.key, func(context.Context, *Op) (string, error) { return "again", nil })
	b.wantResult(got, err, "steps", true)
	b.wantEffects(0)
}
