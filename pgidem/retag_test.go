package pgidem

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// model 5: a re-tag arrives late, when the instance that it is for is dead and the row has the number of the next one: it
// asserts its own instance's lock, and raises.
func TestModel05LateReTagRaises(t *testing.T) {
	b := setup(t, withConfig(impatient))
	b.warmDo(b.client)
	b.faults.RefuseCancel(true)
	r := ride{b: b}
	r.call = func(context.Context, StepContext) (string, error) {
		late := b.faults.Hold(faultconn.Point{SQL: "name: OwnerRetag"})
		b.Cleanup(late.Release)
		first := b.client.liveness.get()
		b.killLiveness(b.client)
		b.reached(late)
		b.newInstance(b.client, first)
		b.killLiveness(b.client)
		b.until("the row has the number of the third instance", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", first.id, b.key.ID)
		before := b.rowNow()
		late.Release()
		b.until("the late re-tag has ended", `SELECT count(*) = 0 FROM pg_stat_activity
			WHERE datname = current_database() AND query LIKE '%name: OwnerRetag%' AND pid <> pg_backend_pid()`)
		if after := b.rowNow(); after != before {
			b.Errorf("the late re-tag has changed the row:\n%s\n%s", before, after)
		}
		other, _, _ := b.newClient()
		_, err := Do(b.Context(), other, b.key, (&ride{b: b}).run, &DoOpts{WaitBound: NoWait})
		b.wantError(err, ErrInProgress)
		return "charged", nil
	}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
}

// model 9: a long transaction holds its operation's row. The others are tagged all the same, and it is when the transaction is over;
// until then nobody takes it over, because it holds the key's lock.
func TestModel09ReTagDoesNotWaitForALongStepTx(t *testing.T) {
	b := setup(t)
	inTx, endTx := make(chan struct{}), make(chan struct{})
	end := sync.OnceFunc(func() { close(endTx) })
	long := Key{"acct_42/long", NewID()}
	tagged := func(key Key, old int64) {
		b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", old, key.ID)
	}
	var old int64
	first := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, long, func(ctx context.Context, op *Op) (string, error) {
			_, err := StepTx(ctx, op, "long", func(context.Context, Tx) (string, error) {
				close(inTx)
				<-endTx
				return "", nil
			})
			if err != nil {
				return "", err
			}
			return Step(ctx, op, "behind", func(context.Context, StepContext) (string, error) { tagged(long, old); return "done", nil })
		})
	})
	b.Cleanup(end)
	b.entered(inTx, first)
	r := ride{b: b, call: func(context.Context, StepContext) (string, error) {
		old = b.client.liveness.get().id
		b.killLiveness(b.client)
		tagged(b.key, old)
		return "charged", nil
	}}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if owner := one[int64](b, b.observe(), "SELECT owner FROM idempotency_keys WHERE id = $1", long.ID); owner != old {
		b.Errorf("the long transaction's row has the owner %d, want still %d", owner, old)
	}
	other, _, _ := b.newClient()
	_, err = Do(b.Context(), other, long, (&ride{b: b}).run, &DoOpts{WaitBound: NoWait})
	if !errors.Is(err, ErrInProgress) {
		b.Errorf("got %v, want %v", err, ErrInProgress)
	}
	end()
	a := <-first
	if a.err != nil || a.Value != "done" || a.Attempt != 1 || got.Attempt != 1 {
		b.Errorf("got %+v, and attempt %d of the other; want done, attempt 1 of each", a, got.Attempt)
	}
}

// An operation that somebody else has taken over meanwhile is not tagged: its context ends with the cause.
func TestReTagTellsWhoeverIsReplaced(t *testing.T) {
	b := setup(t)
	told := make(chan error, 1)
	z := b.zombie(func(call standStill) func(context.Context, *Op) (string, error) {
		return func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "charge", func(ctx context.Context, s StepContext) (string, error) {
				_, _ = call(ctx, s)
				<-ctx.Done()
				told <- context.Cause(ctx)
				return "late", nil
			})
		}
	}, nil)
	got, err := Do(b.Context(), b.client, b.key, (&ride{b: b}).runFromTheCall)
	b.wantResult(got, err, "charged", false)
	z.goOn()
	z.revive()
	b.wantError(<-told, ErrTakenOver)
	a := <-z.answer
	b.wantResult(a.Result, a.err, "charged", true)
}

// A re-tag whose connection is lost is made again, whether it was committed or not.
func TestLostReTagIsMadeAgain(t *testing.T) {
	for name, point := range map[string]faultconn.Point{
		"NotSent": {SQL: "name: OwnerRetag"}, "Answered": {Side: faultconn.Server, Tag: "UPDATE"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			r := ride{b: b}
			r.call = func(context.Context, StepContext) (string, error) {
				old := b.client.liveness.get()
				cut := b.faults.Cut(point)
				b.killLiveness(b.client)
				b.reached(cut)
				in := b.newInstance(b.client, old)
				b.until("the row is tagged anew", "SELECT owner = $1 FROM idempotency_keys WHERE id = $2", in.id, b.key.ID)
				b.untagged(in)
				return "charged", nil
			}
			got, err := Do(b.Context(), b.client, b.key, r.run)
			b.wantResult(got, err, rideResult, false)
			if got.Attempt != 1 {
				b.Errorf("attempt %d, want 1", got.Attempt)
			}
		})
	}
}

// untagged waits until the client knows that all its rows are tagged with in.
func (b *bundle) untagged(in *instance) {
	b.Helper()
	deadline := time.Now().Add(20 * time.Second)
	pool := b.observe()
	for len(b.client.registry.untagged(in.generation)) > 0 {
		if time.Now().After(deadline) {
			b.Fatal("the client has not found its rows tagged within 20 s")
		}
		b.must(pool.Exec(b.Context(), "SELECT pg_sleep(0.005)"))
	}
}

// A rotation drops the old lock behind the last re-tag: there is no moment at which the operation looks dead.
func TestRotationReTagsBeforeItDrops(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.PingInterval, c.RotateAfter = 20*time.Millisecond, 200*time.Millisecond }))
	retag := b.faults.Hold(faultconn.Point{SQL: "name: OwnerRetag"})
	b.Cleanup(retag.Release)
	r := ride{b: b}
	r.call = func(context.Context, StepContext) (string, error) {
		b.reached(retag)
		old := one[int64](b, b.observe(), "SELECT owner FROM idempotency_keys WHERE id = $1", b.key.ID)
		if in := b.client.liveness.get(); in == nil || in.id == old {
			b.Error("a re-tag is sent, and there is no new instance")
		}
		other, _, _ := b.newClient()
		_, err := Do(b.Context(), other, b.key, (&ride{b: b}).run, &DoOpts{WaitBound: NoWait})
		b.wantError(err, ErrInProgress)
		retag.Release()
		b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", old, b.key.ID)
		b.until("the old lock is dropped", "SELECT pg_try_advisory_xact_lock_shared(($1::bigint >> 32)::int, (($1::bigint << 32) >> 32)::int)", old)
		_, err = Do(b.Context(), other, b.key, (&ride{b: b}).run, &DoOpts{WaitBound: NoWait})
		b.wantError(err, ErrInProgress)
		return "charged", nil
	}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
}

// review 8: a rotation waits for a claim that is under way with the old number: its row is committed, and the client has not heard of it.
func TestReview08RotationWaitsForAClaim(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.PingInterval, c.RotateAfter = 20*time.Millisecond, 200*time.Millisecond }))
	b.must(Do(b.Context(), b.client, Key{"warm", NewID()}, (&ride{b: b}).run))
	b.faults.RefuseCancel(true)
	answer := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
	b.Cleanup(answer.Release)
	r := ride{b: b}
	first := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run) })
	b.reached(answer)
	owner := one[int64](b, b.observe(), "SELECT owner FROM idempotency_keys WHERE id = $1", b.key.ID)
	deadline := time.Now().Add(20 * time.Second)
	pool := b.observe()
	for in := b.client.liveness.get(); in == nil || in.id == owner; in = b.client.liveness.get() {
		if time.Now().After(deadline) {
			b.Fatal("no rotation within 20 s")
		}
		b.must(pool.Exec(b.Context(), "SELECT pg_sleep(0.005)"))
	}
	for range 3 { // without waiting the old lock is gone by now
		sweep := b.faults.Hold(faultconn.Point{SQL: "name: OwnerRows"})
		b.reached(sweep)
		sweep.Release()
	}
	other, _, _ := b.newClient()
	_, err := Do(b.Context(), other, b.key, (&ride{b: b}).run, &DoOpts{WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	answer.Release()
	a := <-first
	b.wantResult(a.Result, a.err, rideResult, false)
	if a.Attempt != 1 {
		b.Errorf("attempt %d, want 1", a.Attempt)
	}
}
