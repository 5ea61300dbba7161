package pgidem

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// The counterexamples that a model checker has found in earlier designs of operations of several steps, by their numbers.
// retag_test.go has 5 and 9; doreview_test.go has what passed only because of the locks.

// model 1: a call that must not be repeated fails, and nothing else is recorded of its operation: what says that it was made is kept.
func TestModel01IntentOutlivesARelease(t *testing.T) {
	b := setup(t)
	calls, asked := 0, 0
	charge := func(o *StepOpts[string]) func(context.Context, *Op) (string, error) {
		return func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { calls++; return "", errDown }, o)
		}
	}
	once := charge(&StepOpts[string]{AtMostOnce: true})
	for range 2 {
		_, err := Do(b.Context(), b.client, b.key, once)
		b.wantError(err, ErrParked)
	}
	if calls != 1 {
		b.Errorf("%d calls, want 1", calls)
	}
	b.key = Key{"acct_42/charges", NewID()}
	calls = 0
	asks := charge(&StepOpts[string]{Timeout: 2 * time.Second, Reconcile: func(context.Context, StepContext) (Reconciled[string], error) {
		asked++
		return Reconciled[string]{Outcome: ReconcileDone, Value: "charged"}, nil
	}})
	if _, err := Do(b.Context(), b.client, b.key, asks); !errors.Is(err, errDown) {
		t.Fatalf("got %v, want the step's own error", err)
	}
	b.wantState(stateReleased)
	got, err := Do(b.Context(), b.client, b.key, asks)
	b.wantResult(got, err, "charged", false)
	if calls != 1 || asked != 1 {
		b.Errorf("called %d times, asked %d times; want 1, 1", calls, asked)
	}
}

// model 2: an undo fails and the operation is released: it is resumed as one that is undone, and the step that had failed is not
// tried again. The same behind an operator's decision.
func TestModel02UndoOutlivesARelease(t *testing.T) {
	for _, parked := range []bool{false, true} {
		t.Run(fmt.Sprintf("Parked=%v", parked), func(t *testing.T) {
			b := setup(t)
			tries, undos := 0, 0
			var declined, stuck atomic.Bool
			declined.Store(true)
			stuck.Store(true)
			fn := func(ctx context.Context, op *Op) (string, error) {
				_, err := Step(ctx, op, "reserve", func(context.Context, StepContext) (string, error) { return "", nil }, &StepOpts[string]{
					Undo: func(context.Context, StepContext, string) error {
						undos++
						if stuck.Load() {
							return errDown
						}
						return nil
					},
				})
				if err != nil {
					return "", err
				}
				return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) {
					tries++
					if declined.Load() {
						return "", Permanent(errors.New("declined"))
					}
					return "charged", nil
				})
			}
			_, err := Do(b.Context(), b.client, b.key, fn)
			b.wantError(err, ErrUndoing)
			b.wantState(stateReleased)
			if parked {
				_, err := Do(b.Context(), b.client, b.key, fn, &DoOpts{MaxAttempts: 1})
				b.wantError(err, ErrParked)
				claim := one[string](b, b.observe(), "SELECT claim::text FROM idempotency_keys WHERE id = $1", b.key.ID)
				b.must(nil, b.client.Resume(b.Context(), b.key, Decision{Claim: claim, Reason: "the provider works again", Actor: "test"}))
			}
			declined.Store(false)
			stuck.Store(false)
			_, err = Do(b.Context(), b.client, b.key, fn)
			var failure *Failure
			if !errors.As(err, &failure) || failure.Message != "declined" || tries != 1 || undos != 2 {
				b.Errorf("got %v, %d tries, %d undos; want the failure, 1, 2", err, tries, undos)
			}
			b.wantState(stateFailed)
		})
	}
}

// model 3: a claim arrives when the call that has sent it is gone. Nobody in the process runs the row, so it is released, although its
// owner lives; in the same process it is taken over at once.
func TestModel03RowsThatNobodyRunsAreReleased(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.PingInterval = 50 * time.Millisecond }))
	b.warmDo(b.client)
	owner := b.client.liveness.get().id
	late := func() {
		b.must(b.observe().Exec(b.Context(), `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, owner, life)
			VALUES ($1, $2, 'steps', 'running', gen_random_uuid(), 1, $3, gen_random_uuid())`, b.key.Scope, b.key.ID, owner))
	}
	late()
	b.until("the row is released", "SELECT state = 'released' AND owner IS NULL FROM idempotency_keys WHERE id = $1", b.key.ID)
	other, _, _ := b.newClient()
	r := ride{b: b}
	got, err := Do(b.Context(), other, b.key, r.run, &DoOpts{WaitBound: NoWait})
	b.wantResult(got, err, rideResult, false)

	slow, _, _ := b.newClient(withConfig(func(c *Config) { c.PingInterval = time.Hour }))
	b.warmDo(slow)
	owner, b.key = slow.liveness.get().id, Key{"acct_42/charges", NewID()}
	late()
	got, err = Do(b.Context(), slow, b.key, r.run, &DoOpts{WaitBound: NoWait})
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 2 {
		b.Errorf("attempt %d, want 2", got.Attempt)
	}
}

// model 3: what runs here is not released, however often it is looked at.
func TestModel03RunningRowsAreLeftAlone(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.PingInterval = 10 * time.Millisecond }))
	r := ride{b: b}
	r.call = func(context.Context, StepContext) (string, error) {
		before := b.rowNow()
		for range 3 {
			sweep := b.faults.Hold(faultconn.Point{SQL: "name: OwnerRows"})
			b.reached(sweep)
			sweep.Release()
		}
		if after := b.rowNow(); after != before {
			b.Errorf("the row has changed:\n%s\n%s", before, after)
		}
		return "charged", nil
	}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
}

// model 4: the rotation of the token, before a transaction runs again, loses its own answer: every token that this run has ever
// written is its own.
func TestModel04RotationLosesItsAnswer(t *testing.T) {
	for at, when := range map[string]faultconn.Point{
		"Sent":     {SQL: "name: OperationRotate"},
		"Answered": {Side: faultconn.Server, Tag: "COMMIT", Nth: 2},
	} {
		t.Run(at, func(t *testing.T) {
			b := setup(t)
			b.warmDo(b.client)
			b.faults.RefuseCancel(true)
			var rotated *faultconn.Fault
			r := ride{b: b}
			r.call = func(context.Context, StepContext) (string, error) {
				b.faults.Cut(faultconn.Point{SQL: "name: StepFinish"})
				rotated = b.faults.Cut(when) // the first COMMIT that is answered is the call's record
				return "charged", nil
			}
			got, err := Do(b.Context(), b.client, b.key, r.run)
			b.wantResult(got, err, rideResult, false)
			if !rotated.Fired() {
				b.Fatal("the rotation was not cut")
			}
			if got.Attempt != 1 || r.creates != 1 || r.calls != 1 || r.ends != 2 {
				b.Errorf("attempt %d, the steps ran %d, %d and %d times; want 1, and 1, 1, 2", got.Attempt, r.creates, r.calls, r.ends)
			}
			b.wantEffects(2)
			if n := b.client.registry.count(); n != 0 {
				b.Errorf("%d operations are registered, want none", n)
			}
		})
	}
}

// model 6: the caller goes away between an intent and its call. The release takes the intent back, so that the next call makes the
// call, and does not park; also where the release is only sent in the background.
func TestModel06IntentWithoutItsCallIsWithdrawn(t *testing.T) {
	for _, background := range []bool{false, true} {
		t.Run(fmt.Sprintf("Background=%v", background), func(t *testing.T) {
			b := setup(t, withConfig(func(c *Config) { c.PingInterval = 50 * time.Millisecond }))
			b.warmDo(b.client)
			b.faults.RefuseCancel(true)
			calls := 0
			fn := func(ctx context.Context, op *Op) (string, error) {
				return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { calls++; return "charged", nil },
					&StepOpts[string]{AtMostOnce: true})
			}
			intent := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", Nth: 2})
			b.Cleanup(intent.Release)
			cause := errors.New("the caller went away")
			ctx, cancel := context.WithCancelCause(b.Context())
			answers := async(b, func() (Result[string], error) { return Do(ctx, b.client, b.key, fn) })
			b.reached(intent)
			cancel(cause)
			if background {
				b.faults.Cut(faultconn.Point{SQL: "name: StepWithdraw"})
			}
			intent.Release()
			if a := <-answers; !errors.Is(a.err, cause) {
				b.Errorf("got %v, want %v", a.err, cause)
			}
			other, _, _ := b.newClient()
			got, err := Do(b.Context(), other, b.key, fn, &DoOpts{WaitBound: time.Minute})
			b.wantResult(got, err, "charged", false)
			if calls != 1 {
				b.Errorf("%d calls, want 1", calls)
			}
		})
	}
}

// model 7: what a call has answered is known, and its record cannot be written: the record is what is tried on, never the release
// alone, so that the call that must not be repeated is neither repeated nor parked.
func TestModel07KnownAnswerIsKept(t *testing.T) {
	for name, o := range map[string]*StepOpts[string]{"Plain": nil, "AtMostOnce": {AtMostOnce: true}} {
		t.Run(name, func(t *testing.T) {
			var refuse atomic.Bool
			b := setup(t, unreachable(&refuse)...)
			b.warmDo(b.client)
			b.faults.RefuseCancel(true)
			calls := 0
			fn := func(ctx context.Context, op *Op) (string, error) {
				return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) {
					calls++
					refuse.Store(true)
					b.finishWithin(time.Second)
					return fmt.Sprintf("charged %d", calls), nil
				}, o)
			}
			b.faults.Cut(faultconn.Point{SQL: "name: StepRecord"})
			_, err := Do(b.Context(), b.client, b.key, fn)
			b.wantError(err, ErrUnknownOutcome)
			other, _, _ := b.newClient()
			_, err = Do(b.Context(), other, b.key, fn, &DoOpts{WaitBound: NoWait})
			b.wantError(err, ErrInProgress) // the answer is this process's to record
			b.finishWithin(DefaultFinishBound)
			refuse.Store(false)
			got, err := Do(b.Context(), other, b.key, fn)
			b.wantResult(got, err, "charged 1", false)
			if calls != 1 {
				b.Errorf("%d calls, want 1", calls)
			}
		})
	}
}

// model 8: the deadline that others wait for is not before the call's own, which counts from before the intent is sent: an intent
// that is answered late leaves no time, and the call is not begun with more than is left.
func TestModel08CallEndsBeforeItsDeadline(t *testing.T) {
	b := setup(t)
	b.warmDo(b.client)
	intent := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", Nth: 2})
	b.Cleanup(intent.Release)
	calls := 0
	var begun []error
	answers := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "charge", func(ctx context.Context, _ StepContext) (string, error) {
				calls++
				begun = append(begun, ctx.Err())
				return "charged", nil
			}, &StepOpts[string]{
				Timeout:   100 * time.Millisecond,
				Reconcile: func(context.Context, StepContext) (Reconciled[string], error) { return Reconciled[string]{}, nil },
			})
		})
	})
	b.reached(intent)
	b.until("the deadline is over", "SELECT clock_timestamp() > deadline FROM idempotency_steps WHERE id = $1", b.key.ID)
	intent.Release()
	a := <-answers
	if calls > 0 && begun[0] == nil {
		b.Errorf("the call began behind its deadline with time left: %+v", a)
	}
	if calls == 0 {
		b.wantError(a.err, ErrUnavailable)
	}
}

// model 8: every further call renews the deadline before it is made.
func TestModel08FurtherCallsRenewTheDeadline(t *testing.T) {
	b := setup(t)
	calls := 0
	deadline := func() time.Time {
		return one[time.Time](b, b.observe(), "SELECT deadline FROM idempotency_steps WHERE id = $1", b.key.ID)
	}
	var deadlines []time.Time
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "charge", func(ctx context.Context, _ StepContext) (string, error) {
			calls++
			deadlines = append(deadlines, deadline())
			if calls < 3 {
				return "", errDown
			}
			return "charged", nil
		}, &StepOpts[string]{
			Timeout: 2 * time.Second, // of which two pass; on a slow machine too, the intent is committed within one
			Retry:   func(int, error) (time.Duration, bool) { return 0, true },
			Reconcile: func(context.Context, StepContext) (Reconciled[string], error) {
				return Reconciled[string]{Outcome: ReconcileAbsent}, nil
			},
		})
	}, &DoOpts{WaitBound: time.Minute})
	b.wantResult(got, err, "charged", false)
	for n := 1; n < len(deadlines); n++ {
		if !deadlines[n].After(deadlines[n-1]) {
			b.Errorf("call %d was made under the deadline of the one before", n+1)
		}
	}
	if calls != 3 {
		b.Errorf("%d calls, want 3", calls)
	}
}
