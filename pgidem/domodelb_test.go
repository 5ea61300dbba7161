package pgidem

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// What the model checker's report calls sentences that two engineers would build differently (its part B), one test each.

// model B: a definite failure while an answer is only in memory does not begin to undo.
func TestModelBFailureBehindAnUnsettledRecordUndoesNothing(t *testing.T) {
	var refuse atomic.Bool
	b := setup(t, unreachable(&refuse)...)
	b.warmDo(b.client)
	b.faults.RefuseCancel(true)
	undos := 0
	fails := true
	fn := func(ctx context.Context, op *Op) (string, error) {
		_, err := Step(ctx, op, "reserve", func(context.Context, StepContext) (string, error) { return "", nil }, &StepOpts[string]{
			Undo: func(context.Context, StepContext, string) error { undos++; return nil },
		})
		if err != nil {
			return "", err
		}
		charge, err := Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) {
			refuse.Store(true)
			b.finishWithin(time.Second)
			return "charged", nil
		})
		if fails {
			return "", Permanent(errors.New("the function gives up"))
		}
		return charge, err
	}
	b.faults.Cut(faultconn.Point{SQL: "name: StepRecord", Nth: 2})
	_, err := Do(b.Context(), b.client, b.key, fn)
	b.wantError(err, ErrUnknownOutcome)
	fails = false
	b.finishWithin(DefaultFinishBound)
	refuse.Store(false)
	got, err := Do(b.Context(), b.client, b.key, fn)
	b.wantResult(got, err, "charged", false)
	if undos != 0 {
		b.Errorf("%d undos, want none", undos)
	}
}

// model B: a takeover tests the owner as it was read. The owner that looked dead has come back and has tagged its row anew, with its
// claim as it was: it is alive.
func TestModelBReTaggedOwnerIsNotReplaced(t *testing.T) {
	b := setup(t)
	zr := ride{b: b}
	z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) {
		zr.call = call
		return zr.run
	}, nil)
	old := one[int64](b, b.observe(), "SELECT owner FROM idempotency_keys WHERE id = $1", b.key.ID)
	r := ride{b: b}
	hold, taker := b.takerAt(r.run, &DoOpts{WaitBound: NoWait})
	z.revive()
	b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", old, b.key.ID)
	hold.Release()
	b.wantError((<-taker).err, ErrInProgress)
	z.goOn()
	a := <-z.answer
	b.wantResult(a.Result, a.err, "created, late, receipt", false)
	if a.Attempt != 1 || r.calls != 0 {
		b.Errorf("attempt %d, %d calls of the taker; want 1, 0", a.Attempt, r.calls)
	}
}

// model B: the record of a step comes a second time, late, behind the record of the next one: it raises, and sets nothing back.
func TestModelBLateDuplicateOfARecord(t *testing.T) {
	b := setup(t, withConfig(impatient), withPool(func(p *pgxpool.Config) { p.MaxConns = 4 }))
	b.warmDo(b.client)
	b.faults.RefuseCancel(true)
	late := b.faults.Hold(faultconn.Point{SQL: "name: StepRecord"})
	b.Cleanup(late.Release)
	call := func(result string) func(context.Context, StepContext) (string, error) {
		return func(context.Context, StepContext) (string, error) { return result, nil }
	}
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		for _, name := range []string{"one", "two"} {
			if _, err := Step(ctx, op, name, call(name)); err != nil {
				return "", err
			}
		}
		before := b.rowNow()
		late.Release()
		b.until("the late record has ended", `SELECT count(*) = 0 FROM pg_stat_activity
			WHERE datname = current_database() AND xact_start IS NOT NULL AND application_name <> 'pgidem liveness' AND pid <> pg_backend_pid()`)
		b.until("its connection is gone", `SELECT count(*) <= $1 FROM pg_stat_activity
			WHERE datname = current_database() AND query LIKE '%COMMIT%' AND pid <> pg_backend_pid()`, b.pool.Stat().TotalConns())
		if after := b.rowNow(); after != before {
			b.Errorf("the late record has changed the row:\n%s\n%s", before, after)
		}
		return "done", nil
	})
	b.wantResult(got, err, "done", false)
	if !late.Fired() {
		b.Error("nothing was late")
	}
}

// model B: a function that swallows the error of a step records nothing behind it, and has no result.
func TestModelBSwallowedErrorEndsTheRun(t *testing.T) {
	b := setup(t)
	_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		_, _ = Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "", errDown })
		_, err := StepTx(ctx, op, "behind", func(context.Context, Tx) (string, error) { panic("behind a failed step") })
		if !errors.Is(err, errDown) {
			b.Errorf("the step behind got %v, want %v", err, errDown)
		}
		return "done", nil
	})
	if !errors.Is(err, errDown) {
		b.Errorf("got %v, want %v", err, errDown)
	}
	b.wantState(stateReleased)
}
