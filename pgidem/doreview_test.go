package pgidem

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// The findings of the design's first review that are about claims, fences and takeovers of operations of several steps, by their
// numbers; doreviewclaim_test.go has those about who may have a key, doreviewstep_test.go those about what the function does.

// review 1: COMMIT travels with the write, so that a row count would come too late: every fence raises. The zombie stands
// between two steps, or in a call, while the one that took over stands in its own call.
func TestReview01ZombieWritesNothing(t *testing.T) {
	step := func(ctx context.Context, op *Op, call standStill, opts ...*StepOpts[string]) (string, error) {
		return Step(ctx, op, "charge", call, opts...)
	}
	between := func(ctx context.Context, op *Op, call standStill) {
		_, _ = call(ctx, StepContext{op, "between", "between"})
	}
	for name, zombie := range map[string]func(ctx context.Context, op *Op, call standStill) (string, error){
		"Checkpoint": func(ctx context.Context, op *Op, call standStill) (string, error) { return step(ctx, op, call) },
		"Intent": func(ctx context.Context, op *Op, call standStill) (string, error) {
			between(ctx, op, call)
			never := func(context.Context, StepContext) (string, error) { panic("a call without an intent") }
			return step(context.WithoutCancel(ctx), op, never, &StepOpts[string]{AtMostOnce: true})
		},
		"Park": func(ctx context.Context, op *Op, call standStill) (string, error) {
			return step(ctx, op, func(ctx context.Context, s StepContext) (string, error) {
				_, _ = call(ctx, s)
				return "", Unknown(errDown)
			})
		},
		"Release": func(ctx context.Context, op *Op, call standStill) (string, error) {
			between(ctx, op, call)
			return "", errDown
		},
		"Failure": func(ctx context.Context, op *Op, call standStill) (string, error) {
			between(ctx, op, call)
			return "", Permanent(errDown)
		},
		"Finish": func(ctx context.Context, op *Op, call standStill) (string, error) {
			between(ctx, op, call)
			return "late", nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			undone := 0
			z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) {
				return func(ctx context.Context, op *Op) (string, error) {
					_, err := StepTx(ctx, op, "create", b.effect("created"), &StepOpts[string]{
						Undo: func(context.Context, StepContext, string) error { undone++; return nil },
					})
					if err != nil {
						return "", err
					}
					return zombie(ctx, op, call)
				}
			}, &DoOpts{WaitBound: NoWait})
			r := ride{b: b}
			inCall, goOn := make(chan struct{}), make(chan struct{})
			r.call = func(context.Context, StepContext) (string, error) {
				close(inCall)
				<-goOn
				return "charged", nil
			}
			release := sync.OnceFunc(func() { close(goOn) })
			taker := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run) })
			b.Cleanup(release)
			b.entered(inCall, taker)
			before := b.rowNow()
			z.goOn()
			b.wantError((<-z.answer).err, ErrInProgress)
			if after := b.rowNow(); after != before {
				b.Errorf("the zombie has changed the row:\n%s\n%s", before, after)
			}
			release()
			a := <-taker
			b.wantResult(a.Result, a.err, rideResult, false)
			if a.Attempt != 2 || r.creates != 0 || undone != 0 {
				b.Errorf("attempt %d, %d creates, %d undos; want 2, 0, 0", a.Attempt, r.creates, undone)
			}
			b.wantEffects(2)
		})
	}
}

// review 1: a zombie's transactions fail at their beginning.
func TestReview01ZombieBeginsNoTransaction(t *testing.T) {
	b := setup(t)
	ran := false
	z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) {
		return func(ctx context.Context, op *Op) (string, error) {
			_, err := Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "", nil })
			_, _ = call(ctx, StepContext{op, "between", "between"})
			if err != nil {
				return "", err
			}
			return FinishTx(context.WithoutCancel(ctx), op, "receipt", func(context.Context, Tx) (string, error) {
				ran = true
				return "late", nil
			})
		}
	}, nil)
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { panic("recorded") })
	})
	b.wantResult(got, err, "", false)
	z.goOn()
	a := <-z.answer
	b.wantResult(a.Result, a.err, "", true)
	if ran {
		b.Error("the zombie has run a transaction")
	}
}

// takerAt starts a call on another client and holds it between its look at the row and its takeover, with all locks of keys away.
func (b *bundle) takerAt(fn func(context.Context, *Op) (string, error), opts *DoOpts) (*faultconn.Fault, <-chan answer[string]) {
	b.Helper()
	taker, _, faults := b.newClient()
	withoutLocks(taker)
	hold := faults.Hold(faultconn.Point{SQL: "name: OperationTake"})
	b.Cleanup(hold.Release)
	answers := async(b, func() (Result[string], error) { return Do(b.Context(), taker, b.key, fn, opts) })
	b.reached(hold)
	return hold, answers
}

// review 2: between the taker's look and its UPDATE the owner finishes: what is finished is not brought back to life.
func TestReview02TakeoverLeavesWhatIsFinished(t *testing.T) {
	b := setup(t)
	zr := ride{b: b}
	z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) {
		zr.call = call
		return zr.run
	}, nil)
	withoutLocks(z.client)
	r := ride{b: b}
	hold, taker := b.takerAt(r.run, nil)
	z.goOn()
	a := <-z.answer
	b.wantResult(a.Result, a.err, "created, late, receipt", false)
	hold.Release()
	a = <-taker
	b.wantResult(a.Result, a.err, "created, late, receipt", true)
	if r.creates+r.calls+r.ends != 0 {
		b.Errorf("the taker ran steps of a finished operation: %+v", r)
	}
	b.wantEffects(2)
}

// review 2: the same where the owner begins to undo, which leaves claim and owner as they were: only the state tells.
func TestReview02TakeoverSeesThatTheOwnerUndoes(t *testing.T) {
	b := setup(t)
	inUndo, undone := make(chan struct{}), make(chan struct{})
	reserve := func(ctx context.Context, op *Op, undo func()) error {
		_, err := Step(ctx, op, "reserve", func(context.Context, StepContext) (string, error) { return "", nil }, &StepOpts[string]{
			Undo: func(context.Context, StepContext, string) error { undo(); return nil },
		})
		return err
	}
	z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) {
		return func(ctx context.Context, op *Op) (string, error) {
			if err := reserve(ctx, op, func() { close(inUndo); <-undone }); err != nil {
				return "", err
			}
			_, _ = call(ctx, StepContext{op, "between", "between"})
			return "", Permanent(errDown)
		}
	}, nil)
	finish := sync.OnceFunc(func() { close(undone) })
	b.Cleanup(finish)
	withoutLocks(z.client)
	calls, undos := 0, 0
	hold, taker := b.takerAt(func(ctx context.Context, op *Op) (string, error) {
		if err := reserve(ctx, op, func() { undos++ }); err != nil {
			return "", err
		}
		return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { calls++; return "charged", nil })
	}, nil)
	z.goOn()
	b.entered(inUndo, z.answer)
	hold.Release()
	a := <-taker
	var failure *Failure
	if !errors.As(a.err, &failure) || calls != 0 || undos != 1 {
		b.Errorf("the taker got %+v, called %d times, undid %d times; want the failure, 0, 1", a, calls, undos)
	}
	finish()
	if a := <-z.answer; !errors.As(a.err, &failure) {
		b.Errorf("the old owner got %+v, want the failure", a)
	}
	b.wantState(stateFailed)
}

// review 2: the same where somebody parks a released operation, which leaves its claim as it was and has no owner either.
func TestReview02TakeoverLeavesWhatIsParked(t *testing.T) {
	b := setup(t)
	withoutLocks(b.client)
	r := ride{b: b, call: func(context.Context, StepContext) (string, error) { return "", errDown }}
	if _, err := Do(b.Context(), b.client, b.key, r.run); !errors.Is(err, errDown) {
		t.Fatalf("got %v, want the step's own error", err)
	}
	hold, taker := b.takerAt(r.run, nil)
	_, err := Do(b.Context(), b.client, b.key, r.run, &DoOpts{MaxAttempts: 1})
	b.wantError(err, ErrParked)
	hold.Release()
	b.wantError((<-taker).err, ErrParked)
	b.wantState(stateParked)
	if r.calls != 1 {
		b.Errorf("%d calls, want 1", r.calls)
	}
}

// review 3: the steps are read behind the takeover's UPDATE, which waits for a write in flight. The owner records its call
// between the taker's look and its UPDATE, or has sent the record and not committed it.
func TestReview03StepsAreReadBehindTheTakeover(t *testing.T) {
	for _, when := range []string{"Committed", "InFlight"} {
		t.Run(when, func(t *testing.T) {
			b := setup(t, direct("a message is held in the middle of its batch"))
			recorded, end := make(chan struct{}), make(chan struct{})
			release := sync.OnceFunc(func() { close(end) })
			z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) {
				return func(ctx context.Context, op *Op) (string, error) {
					charge, err := Step(ctx, op, "charge", call)
					close(recorded)
					<-end
					return charge, err
				}
			}, nil, direct("a message is held in the middle of its batch"),
				withPool(inMode(pgx.QueryExecModeCacheDescribe))) // the simple protocol has one message for the whole batch
			b.Cleanup(release)
			withoutLocks(z.client)
			calls := 0
			hold, taker := b.takerAt(func(ctx context.Context, op *Op) (string, error) {
				return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { calls++; return "again", nil })
			}, nil)
			if when == "Committed" {
				z.goOn()
				b.entered(recorded, z.answer)
				hold.Release()
			} else {
				inFlight := z.faults.Hold(atCommit(faultconn.Mid))
				b.Cleanup(inFlight.Release)
				z.goOn()
				b.reached(inFlight)
				b.until("the record waits for its COMMIT, which is bound and not executed", `SELECT count(*) = 1 FROM pg_stat_activity
					WHERE datname = current_database() AND query ILIKE 'commit%' AND state = 'active' AND wait_event = 'ClientRead'`)
				hold.Release()
				b.until("the takeover waits for the row", `SELECT count(*) = 1 FROM pg_stat_activity
					WHERE datname = current_database() AND query LIKE '%name: OperationTake%' AND wait_event_type = 'Lock'`)
				inFlight.Release()
			}
			a := <-taker
			b.wantResult(a.Result, a.err, "late", false)
			if calls != 0 {
				b.Error("a recorded call was made again")
			}
			release()
			a = <-z.answer
			b.wantResult(a.Result, a.err, "late", true)
		})
	}
}

// review 4 (a): a lost record of a call is written again, however often; the call is not made again.
func TestReview04AbsentRecordIsWrittenAgain(t *testing.T) {
	b := setup(t)
	b.warmDo(b.client)
	b.faults.RefuseCancel(true)
	const lost = 4
	for n := range lost {
		point := faultconn.Point{SQL: "name: StepRecord", Nth: n + 2} // the first is the transaction's
		b.faults.Cut(point)
	}
	r := ride{b: b}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if r.creates != 1 || r.calls != 1 || r.ends != 1 {
		b.Errorf("the steps ran %d, %d and %d times, want once each", r.creates, r.calls, r.ends)
	}
	b.wantEffects(2)
}

// impatient gives a COMMIT up soon: what it has sent is then late.
func impatient(c *Config) { c.FinishBound, c.LockTimeout = 2*time.Second, time.Minute }

// review 4 (b): a COMMIT that comes late is waited for behind the key's lock, before anything runs again.
func TestReview04LateCommitIsWaitedFor(t *testing.T) {
	for name, nth := range map[string]int{"StepTx": 2, "FinishTx": 4} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, direct("a pooler drops what was sent by a client that is gone"),
				withConfig(impatient), withConfig(func(c *Config) { c.FinishBound = 5 * time.Second })) // so long the lock is waited for
			b.warmDo(b.client)
			b.faults.RefuseCancel(true)
			point := atCommit(faultconn.Before)
			point.Nth = nth
			hold := b.faults.Hold(point)
			b.Cleanup(hold.Release)
			r := ride{b: b}
			answers := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run) })
			b.reached(hold)
			b.lockAwaited("the settlement waits for the lock", 1)
			hold.Release()
			a := <-answers
			b.wantResult(a.Result, a.err, rideResult, false)
			if r.creates != 1 || r.calls != 1 || r.ends != 1 {
				b.Errorf("the steps ran %d, %d and %d times, want once each", r.creates, r.calls, r.ends)
			}
			b.wantEffects(2)
		})
	}
}

// review 4 (b): with every lock away the step runs again, and of the two transactions one commits: the row's claim token and the
// record of the step let the late one through or the second one, never both.
func TestReview04LateCommitWithoutLocks(t *testing.T) {
	for name, opts := range map[string]*DoOpts{"StepTx": nil, "StartsWithTx": {StartsWithTx: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(impatient))
			withoutLocks(b.client)
			b.warmDo(b.client)
			b.faults.RefuseCancel(true)
			hold := b.faults.Hold(faultconn.Point{SQL: "name: StepRecord"})
			b.Cleanup(hold.Release)
			r := ride{b: b}
			answers := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run, opts) })
			b.reached(hold)
			if opts == nil { // the fence of the first transaction holds the row
				b.until("the rotation of the token waits for the row", `SELECT count(*) = 1 FROM pg_stat_activity
					WHERE datname = current_database() AND query LIKE '%name: OperationRotate%' AND wait_event_type = 'Lock'`)
				hold.Release()
			}
			a := <-answers
			b.wantResult(a.Result, a.err, rideResult, false)
			hold.Release()
			b.until("the late transaction has ended", `SELECT count(*) = 0 FROM pg_stat_activity
				WHERE datname = current_database() AND xact_start IS NOT NULL AND application_name <> 'pgidem liveness' AND pid <> pg_backend_pid()`)
			b.wantEffects(2)
			if r.creates != 2 || r.calls != 1 || r.ends != 1 {
				b.Errorf("the steps ran %d, %d and %d times, want 2, 1, 1", r.creates, r.calls, r.ends)
			}
		})
	}
}

// review 10: what is found after a lost answer is acknowledged only behind a committed write of the finder's own.
func TestReview10FoundStepIsAcknowledgedBehindABarrier(t *testing.T) {
	for name, commit := range map[string]int{"StepTx": 2, "Step": 3, "FinishTx": 4, "Finish": 4} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.warmDo(b.client)
			b.faults.RefuseCancel(true)
			b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", Nth: commit})
			barrier := b.faults.Hold(faultconn.Point{SQL: "name: KeyBarrier"})
			b.Cleanup(barrier.Release)
			tr := &passage{b: b, plain: name == "Finish", ran: make(map[string]int)}
			answers := async(b, func() (Result[string], error) { return tr.do(b.client) })
			select {
			case <-barrier.Reached():
			case a := <-answers:
				b.Fatalf("what was found was acknowledged without a barrier: %+v", a)
			}
			ran := len(tr.ran)
			if want := map[string]int{"StepTx": 1, "Step": 2, "FinishTx": 3, "Finish": 2}[name]; ran != want {
				b.Errorf("%d bodies ran before the barrier, want %d", ran, want)
			}
			barrier.Release()
			a := <-answers
			if a.err != nil || a.Replayed {
				b.Errorf("got %+v", a)
			}
			for body, n := range tr.ran {
				if n != 1 {
					b.Errorf("the body %s ran %d times, want once", body, n)
				}
			}
		})
	}
}
