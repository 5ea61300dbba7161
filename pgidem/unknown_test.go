package pgidem

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// The tests of "A COMMIT without an answer" in doc.go, by its rows; standby_test.go has those where PostgreSQL waits for a
// standby.
//
//	claim         TestDeadPooledConnection; TestCancelledAtEachPoint
//	DoTx          present, ours           TestLostCommit (committed), TestLateCommitIsWaitedFor, TestOwnResultThatExpired…,
//	                                      TestSynchronousStandby/…/CutWhileItWaits
//	              somebody else's         TestReview04…
//	              absent                  TestLostCommit (not committed), TestAbsentAfterCancelIsFinal, TestRoundsAreBounded
//	              not to be read          TestUnknownOutcome, TestSynchronousStandby/…/BoundPasses
//	its failure   ours and absent         TestLostCommitOfAFailure, TestSynchronousStandby/…/LostFailure
//	              somebody else's         TestLostFailureBehindASuccess
//	              not to be read          TestUnknownOutcomeOfAFailure
//	barrier       ours                    TestReview10…, TestLostBarrier, TestSynchronousStandby/…/CutAndWaitCancelled
//	              somebody else's, absent TestForgottenBehindALostBarrier
//	              never succeeds          TestBarrierThatFails
//	Forget                                TestLostForget
//	DoBatch                               dobatch_test.go

// G7, row by row: the connection is cut around COMMIT, and the caller gets what really happened.
func TestLostCommit(t *testing.T) {
	cases := map[string]struct {
		point     faultconn.Point
		committed bool // by the COMMIT whose answer was lost
	}{
		"NeverSent":                {point: atCommit(faultconn.Before)},
		"HalfSent":                 {point: atCommit(faultconn.Mid)},
		"AnsweredButNotDelivered":  {point: faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Before}, committed: true},
		"AnswerDeliveredThenCut":   {point: faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.After}, committed: true},
		"HalfAnswered":             {point: faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Mid}, committed: true},
		"SavedButNotYetCommitting": {point: faultconn.Point{Side: faultconn.Server, Tag: "INSERT", Nth: 2, When: faultconn.Before}, committed: true},
	}
	for name, c := range cases {
		for mode, queryMode := range queryModes {
			t.Run(name+"/"+mode, func(t *testing.T) { lostCommit(t, queryMode, c.point, c.committed) })
		}
	}
}

// lostCommit cuts the connection at point. The library must not believe pgx's word that an error is safe to retry: in
// some modes it says so of a transaction that has committed.
func lostCommit(t *testing.T, mode pgx.QueryExecMode, point faultconn.Point, committed bool) {
	b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }))
	b.warm(b.client, b.pool)
	b.faults.RefuseCancel(true)
	cut := b.faults.Cut(point)
	runs := 0
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		runs++
		return b.effect("done")(ctx, tx)
	})
	if !cut.Fired() {
		b.Fatal("the cut did not strike")
	}
	b.wantResult(got, err, "done", false)
	want := 2
	if committed {
		want = 1
	}
	if runs != want {
		b.Errorf("fn ran %d times, want %d", runs, want)
	}
	b.wantEffects(1)
	b.wantState(stateSucceeded)
	again, err := DoTx(b.Context(), b.client, b.key, b.effect("again"))
	b.wantResult(again, err, "done", true)
}

// A COMMIT that arrives after its client gave up is waited for: absent is final only behind the lock.
func TestLateCommitIsWaitedFor(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.FinishBound = 20 * time.Second }))
	b.warm(b.client, b.pool)
	b.faults.RefuseCancel(true)
	hold := b.faults.Hold(atCommit(faultconn.Before))
	ctx, cancel := context.WithCancel(b.Context())
	runs := 0
	first := async(b, func() (Result[string], error) {
		return DoTx(ctx, b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
			runs++
			return b.effect("done")(ctx, tx)
		})
	})
	b.reached(hold)
	cancel() // the library must not follow it any more
	hold.Release()
	a := <-first
	b.wantResult(a.Result, a.err, "done", false)
	if runs != 1 {
		b.Errorf("fn ran %d times, want 1", runs)
	}
	b.wantEffects(1)
}

// The caller's context has ended when the lost COMMIT turns out to have failed: nothing was committed, fn does not run again.
func TestAbsentAfterCancelIsFinal(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	ctx, cancel := context.WithCancelCause(b.Context())
	cause := errors.New("the caller went away")
	cut := b.faults.Cut(atCommit(faultconn.Before))
	_, err := DoTx(ctx, b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := b.effect("")(ctx, tx)
		cancel(cause)
		return "done", err
	})
	if !cut.Fired() || !errors.Is(err, cause) {
		b.Errorf("cut %v, got %v, want %v", cut.Fired(), err, cause)
	}
	b.wantEffects(0)
	b.wantState("")
}

// PostgreSQL cannot be reached any more: a typed error within the bound, and the same key asks again.
func TestUnknownOutcome(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	err := b.loseForGood(b.effect("done"))
	b.wantError(err, ErrUnknownOutcome)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("again"))
	b.wantResult(got, err, "done", true)
	b.wantEffects(1)
}

// The outcome of a failure's COMMIT stays unknown too, and is not called "nothing committed".
func TestUnknownOutcomeOfAFailure(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	err := b.loseForGood(func(context.Context, Tx) (string, error) { return "", Permanent(errors.New("no")) })
	b.wantError(err, ErrUnknownOutcome)
	if errors.Is(err, ErrUnavailable) {
		b.Errorf("%v also says that nothing was committed", err)
	}
	b.wantState(stateFailed)
}

// loseForGood runs the key, loses the answer to its COMMIT and swallows every later connection until the call has ended.
func (b *bundle) loseForGood(fn func(context.Context, Tx) (string, error)) error {
	b.Helper()
	b.faults.RefuseCancel(true)
	answered := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
	call := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, fn) })
	b.reached(answered)
	var holes []*faultconn.Fault
	for range 50 {
		holes = append(holes, b.faults.BlackHole(faultconn.Point{Type: faultconn.StartupMessage}))
	}
	b.client.config.FinishBound = 300 * time.Millisecond // up to here, it could take as long as it liked
	answered.Cut()
	a := <-call
	for _, hole := range holes {
		hole.Heal()
	}
	return a.err
}

// Every COMMIT is lost: fn runs three times more, and then it is known that nothing was committed.
func TestRoundsAreBounded(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	runs, err := b.loseCommits(10, nil)
	b.wantError(err, ErrUnavailable)
	if want := maxRounds + 1; runs != want {
		b.Errorf("fn ran %d times, want %d", runs, want)
	}
	b.wantEffects(0)
}

// The last COMMIT that may be tried is settled like the first.
func TestLastRoundIsSettled(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	b.faults.RefuseCancel(true)
	runs, err := b.loseCommits(maxRounds, func() {
		b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
	})
	if want := maxRounds + 1; err != nil || runs != want {
		b.Errorf("%d runs and %v, want %d and the result", runs, err, want)
	}
	b.wantEffects(1)
}

// loseCommits cuts the first n COMMITs before they are sent, and calls then in the run behind them.
func (b *bundle) loseCommits(n int, then func()) (runs int, err error) {
	for range n {
		b.faults.Cut(faultconn.Point{SQL: "INSERT INTO idempotency_keys"})
	}
	_, err = DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		if runs++; runs == n+1 && then != nil {
			then()
		}
		return b.effect("done")(ctx, tx)
	})
	return runs, err
}

// The answer to a COMMIT is lost, and when it is settled the result has expired: it is still this call's own.
func TestOwnResultThatExpiredBeforeItWasSettled(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	b.faults.RefuseCancel(true)
	b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
	runs := 0
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		runs++
		return b.effect("done")(ctx, tx)
	}, &TxOpts{TTL: time.Microsecond})
	b.wantResult(got, err, "done", false)
	if runs != 1 {
		b.Errorf("fn ran %d times after its COMMIT had succeeded", runs-1)
	}
	b.wantEffects(1)
}

// review 4 (c): present does not mean ours; another request may have won while the answer was lost.
func TestReview04PresentAfterALostCommitIsDecidedAgain(t *testing.T) {
	b := setup(t, withConfig(patience))
	b.warm(b.client, b.pool)
	other, _, _ := b.newClient(withConfig(patience)) // a wait that began anew would queue behind the first
	cut := b.faults.Hold(atCommit(faultconn.Before))
	first := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, b.effect("first"), &TxOpts{Input: "one"})
	})
	b.reached(cut)
	second := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), other, b.key, b.effect("second"), &TxOpts{Input: "two"})
	})
	b.lockAwaited("the other request waits", 1)
	cut.Cut() // the server rolls back, and the waiting request comes before the one that lost its answer
	a := <-second
	b.wantResult(a.Result, a.err, "second", false)
	a = <-first
	b.wantError(a.err, ErrKeyReused)
	b.wantEffects(1)
}

// review 10: an outcome that was found is acknowledged only behind a committed write of the finder's own.
func TestReview10FoundOutcomeIsAcknowledgedBehindABarrier(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	b.faults.RefuseCancel(true)
	b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Before})
	barrier := b.faults.Hold(faultconn.Point{SQL: "UPDATE idempotency_keys"})
	first := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("done")) })
	select {
	case <-barrier.Reached():
	case a := <-first:
		b.Fatalf("the outcome was acknowledged without a barrier: %+v", a)
	}
	barrier.Release()
	a := <-first
	b.wantResult(a.Result, a.err, "done", false)
	if !one[bool](b, b.observe(), "SELECT updated_at > finished_at FROM idempotency_keys WHERE id = $1", b.key.ID) {
		b.Error("the barrier has written nothing")
	}
}

// A barrier whose own COMMIT is lost is settled like any other.
func TestLostBarrier(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	b.faults.RefuseCancel(true)
	b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Before})
	b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "UPDATE", When: faultconn.Before})
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantResult(got, err, "done", false)
	b.wantEffects(1)
}

// A barrier that never succeeds ends in the typed error, and not in a loop.
func TestBarrierThatFails(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	b.must(b.observe().Exec(b.Context(), `
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no barrier'; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION refuse()`))
	b.faults.RefuseCancel(true)
	b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantError(err, ErrUnknownOutcome)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("again"))
	b.wantResult(got, err, "done", true)
	b.wantEffects(1)
}

// The second transaction of a definite failure loses its answer too.
func TestLostCommitOfAFailure(t *testing.T) {
	for name, when := range map[string]faultconn.Point{
		"NotSent":  {SQL: "INSERT INTO idempotency_keys"},
		"Answered": {Side: faultconn.Server, Tag: "COMMIT"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.warm(b.client, b.pool)
			b.faults.RefuseCancel(true)
			cut := b.faults.Cut(when)
			runs := 0
			cause := errors.New("card declined")
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				runs++
				_, err := b.effect("")(ctx, tx)
				return "", errors.Join(err, Permanent(cause))
			})
			var failure *Failure
			if !cut.Fired() || !errors.As(err, &failure) || !errors.Is(err, cause) || runs != 1 {
				b.Errorf("cut %v, %d runs, got %v; want one run and a failure with its cause", cut.Fired(), runs, err)
			}
			b.wantEffects(0)
			b.wantState(stateFailed)
		})
	}
}
