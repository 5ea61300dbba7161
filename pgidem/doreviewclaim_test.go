package pgidem

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// The findings of the design's first review that are about who may have a key, by their numbers.

// review 7: the claim token is the fence, and nothing else is: the owner's number changes under a write that is on its way, and
// the write counts.
func TestReview07ReTaggingDoesNotFenceTheOwner(t *testing.T) {
	b := setup(t)
	b.warmDo(b.client)
	hold := b.faults.Hold(faultconn.Point{SQL: "name: StepRecord", Nth: 2}) // the call's
	b.Cleanup(hold.Release)
	r := ride{b: b}
	answers := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run) })
	b.reached(hold)
	before := b.client.liveness.get().id
	b.killLiveness(b.client)
	b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", before, b.key.ID)
	hold.Release()
	a := <-answers
	b.wantResult(a.Result, a.err, rideResult, false)
	if a.Attempt != 1 || r.calls != 1 {
		b.Errorf("attempt %d, %d calls; want 1, 1", a.Attempt, r.calls)
	}
}

// review 7: neither the owner's number nor the attempt makes a row one's own. It is claimed anew by the same instance as the same
// attempt, as after a life of the key that is over, or on a server that has lost its tail.
func TestReview07OwnerAndAttemptAreNoFence(t *testing.T) {
	b := setup(t)
	r := ride{b: b}
	var before string
	r.call = func(context.Context, StepContext) (string, error) {
		b.must(b.observe().Exec(b.Context(), "UPDATE idempotency_keys SET claim = gen_random_uuid() WHERE id = $1", b.key.ID))
		before = b.rowNow()
		return "late", nil
	}
	var now string
	looked := func(ctx context.Context, op *Op) (string, error) {
		result, err := r.run(ctx, op)
		if !errors.Is(err, ErrTakenOver) {
			b.Errorf("the step's error is %v, want %v", err, ErrTakenOver)
		}
		now = b.rowNow()
		r.call = nil // the call goes on as one that waits, and may come to it again
		return result, err
	}
	_, err := Do(b.Context(), b.client, b.key, looked, &DoOpts{MaxAttempts: 1})
	b.wantError(err, ErrParked) // nobody here runs the row, and its one attempt was made
	if now != before {
		b.Errorf("the old run has changed the row:\n%s\n%s", before, now)
	}
	b.wantEffects(1)
}

// review 8: the instance is lost between the claim's look and its row. The row is not written for an instance that everybody finds
// dead, not even where another process is just asking for that one's lock.
func TestReview08ClaimNeedsItsInstance(t *testing.T) {
	for name, c := range map[string]struct {
		opts    *DoOpts
		resume  bool
		held    string
		creates int
	}{
		"Start":        {held: "name: OperationStart", creates: 1},
		"StartsWithTx": {held: "name: OperationStart", opts: &DoOpts{StartsWithTx: true}, creates: 2},
		"Take":         {held: "name: OperationTake", resume: true, creates: 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.warmDo(b.client)
			r := ride{b: b}
			if c.resume {
				r.call = func(context.Context, StepContext) (string, error) { return "", errDown }
				if _, err := Do(b.Context(), b.client, b.key, r.run); !errors.Is(err, errDown) {
					t.Fatalf("got %v, want the step's own error", err)
				}
				r = ride{b: b}
			}
			hold := b.faults.Hold(faultconn.Point{SQL: c.held})
			b.Cleanup(hold.Release)
			r.call = func(context.Context, StepContext) (string, error) {
				in := b.client.liveness.get()
				if in == nil || one[int64](b, b.observe(), "SELECT owner FROM idempotency_keys WHERE id = $1", b.key.ID) != in.id {
					b.Error("the row is not the living instance's")
				}
				return "charged", nil
			}
			answers := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run, c.opts) })
			b.reached(hold)
			old := b.client.liveness.get()
			b.killLiveness(b.client)
			prober, err := b.observe().Begin(b.Context())
			b.must(prober, err)
			high, low := old.halves()
			b.dead(old)
			b.must(prober.Exec(b.Context(), "SELECT pg_try_advisory_xact_lock_shared($1, $2)", high, low))
			b.newInstance(b.client, old)
			b.faults.Record()
			hold.Release()
			a := <-answers
			b.wantResult(a.Result, a.err, rideResult, false)
			refused := slices.ContainsFunc(b.faults.Messages(), func(m faultconn.Message) bool {
				return m.Type == faultconn.ErrorResponse && strings.HasPrefix(m.Tag, checkViolation)
			})
			if !refused {
				b.Error("the row was written for a dead instance")
			}
			if r.creates != c.creates || r.calls != 1 || r.ends != 1 {
				b.Errorf("the steps ran %d, %d and %d times, want %d, 1, 1", r.creates, r.calls, r.ends, c.creates)
			}
			b.wantEffects(2)
			b.must(nil, prober.Rollback(b.Context()))
		})
	}
}

// newInstance waits until a client has another instance than old.
func (b *bundle) newInstance(c *Client, old *instance) *instance {
	b.Helper()
	deadline := time.Now().Add(20 * time.Second)
	pool := b.observe()
	for {
		if now := c.liveness.get(); now != nil && now != old {
			return now
		}
		if time.Now().After(deadline) {
			b.Fatal("no new instance within 20 s")
		}
		b.must(pool.Exec(b.Context(), "SELECT pg_sleep(0.005)"))
	}
}

// review 8: the claim is committed with a number that is dead when its answer comes, and nothing that looks for old numbers has seen it:
// the claim itself has the row tagged anew.
func TestReview08ClaimRacesAReTag(t *testing.T) {
	for name, c := range map[string]struct {
		opts   *DoOpts
		resume bool
	}{"Start": {}, "StartsWithTx": {opts: &DoOpts{StartsWithTx: true}}, "Take": {resume: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(func(c *Config) { c.PingInterval = time.Hour }))
			b.warmDo(b.client)
			r := ride{b: b}
			if c.resume {
				r.call = func(context.Context, StepContext) (string, error) { return "", errDown }
				if _, err := Do(b.Context(), b.client, b.key, r.run); !errors.Is(err, errDown) {
					t.Fatalf("got %v, want the step's own error", err)
				}
			}
			answer := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
			b.Cleanup(answer.Release)
			r.call = func(context.Context, StepContext) (string, error) {
				in := b.client.liveness.get()
				b.until("the row is tagged with the new instance", "SELECT owner = $1 FROM idempotency_keys WHERE id = $2", in.id, b.key.ID)
				return "charged", nil
			}
			answers := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run, c.opts) })
			b.reached(answer)
			old := b.client.liveness.get()
			b.killLiveness(b.client)
			b.newInstance(b.client, old)
			answer.Release()
			a := <-answers
			b.wantResult(a.Result, a.err, rideResult, false)
			b.wantEffects(2)
		})
	}
}

// review 11: a key keeps its kind: neither a transaction nor a mark takes an operation's steps for nothing.
func TestReview11KindsDoNotMixWithSteps(t *testing.T) {
	b := setup(t)
	r := ride{b: b, call: func(context.Context, StepContext) (string, error) { return "", errDown }}
	if _, err := Do(b.Context(), b.client, b.key, r.run); !errors.Is(err, errDown) {
		t.Fatalf("got %v, want the step's own error", err)
	}
	before := b.rowNow()
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
	b.wantError(err, ErrKeyReused)
	tx, err := b.observe().Begin(b.Context())
	b.must(tx, err)
	if fresh, err := MarkTx(b.Context(), b.client, tx, b.key.Scope, []string{b.key.ID}); err == nil {
		b.Errorf("a mark of the operation's key gave %v, want an error", fresh)
	}
	b.must(nil, tx.Rollback(b.Context()))
	if after := b.rowNow(); after != before {
		b.Errorf("the row has changed:\n%s\n%s", before, after)
	}
	b.wantEffects(1)
	b.key = Key{"acct_42/charges", NewID()}
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("done")))
	_, err = Do(b.Context(), b.client, b.key, r.run)
	b.wantError(err, ErrKeyReused)
}

// review 13: an expired operation is no operation: expiry comes before the fingerprint, its steps go with it, and its calls have
// new downstream keys. What is not finished does not expire.
func TestReview13ExpiredOperationStartsAfresh(t *testing.T) {
	for name, opts := range map[string]*DoOpts{"Plain": {}, "StartsWithTx": {StartsWithTx: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			r := ride{b: b}
			old, fresh := *opts, *opts
			old.Input, old.TTL = "the old request", time.Microsecond
			fresh.Input = "another request"
			for _, o := range []*DoOpts{&old, &fresh} {
				got, err := Do(b.Context(), b.client, b.key, r.run, o)
				b.wantResult(got, err, rideResult, false)
				if got.Attempt != 1 || got.ResumedAfter != "" {
					b.Errorf("attempt %d, resumed after %q; want 1, and from the start", got.Attempt, got.ResumedAfter)
				}
			}
			if r.creates != 2 || r.calls != 2 || r.ends != 2 || r.keys[0] == r.keys[1] {
				b.Errorf("the steps ran %d, %d and %d times with keys %v; want twice each, and two keys", r.creates, r.calls, r.ends, r.keys)
			}
			b.wantEffects(4)
			if n := one[int](b, b.observe(), "SELECT count(*) FROM idempotency_steps WHERE id = $1", b.key.ID); n != 3 {
				b.Errorf("%d steps are recorded, want 3", n)
			}
		})
	}
}

// review 13: a released operation in which something has happened is kept without an end; one in which nothing has, is not kept.
func TestReview13ReleasedOperationsDoNotExpire(t *testing.T) {
	b := setup(t)
	r := ride{b: b, call: func(context.Context, StepContext) (string, error) { return "", errDown }}
	if _, err := Do(b.Context(), b.client, b.key, r.run, &DoOpts{TTL: time.Microsecond}); !errors.Is(err, errDown) {
		t.Fatalf("got %v, want the step's own error", err)
	}
	r.call = nil
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if r.creates != 1 || got.ResumedAfter != "create" {
		b.Errorf("the recorded step ran %d times, resumed after %q", r.creates, got.ResumedAfter)
	}
	b.key = Key{"acct_42/charges", NewID()}
	if _, err := Do(b.Context(), b.client, b.key, func(context.Context, *Op) (string, error) { return "", errDown }); !errors.Is(err, errDown) {
		t.Fatalf("got %v, want the function's own error", err)
	}
	b.wantState("")
}

// review 21: an operation whose function never comes through is parked when its attempts are used up, and not tried for ever.
func TestReview21AttemptsUsedUpPark(t *testing.T) {
	b := setup(t)
	r := ride{b: b, call: func(context.Context, StepContext) (string, error) { return "", errDown }}
	for range 3 {
		if _, err := Do(b.Context(), b.client, b.key, r.run, &DoOpts{MaxAttempts: 3}); !errors.Is(err, errDown) {
			t.Fatalf("got %v, want the step's own error", err)
		}
	}
	for range 2 {
		_, err := Do(b.Context(), b.client, b.key, r.run, &DoOpts{MaxAttempts: 3})
		b.wantError(err, ErrParked)
	}
	if r.creates != 1 || r.calls != 3 {
		b.Errorf("the steps ran %d and %d times, want 1 and 3", r.creates, r.calls)
	}
	b.wantState(stateParked)
}

// review 24: a lock that was not granted proves nothing about the row: somebody may be replaying it.
func TestReview24RefusedLockProvesNothing(t *testing.T) {
	b := setup(t)
	r := ride{b: b}
	inCall, goOn := make(chan struct{}), make(chan struct{})
	r.call = func(context.Context, StepContext) (string, error) {
		close(inCall)
		<-goOn
		return "charged", nil
	}
	release := sync.OnceFunc(func() { close(goOn) })
	first := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run) })
	b.Cleanup(release)
	b.entered(inCall, first)
	other, _, _ := b.newClient()
	unlock := b.lockKey(b.key)
	_, err := Do(b.Context(), other, b.key, r.run, &DoOpts{WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	unlock()
	release()
	a := <-first
	b.wantResult(a.Result, a.err, rideResult, false)

	unlock = b.lockKey(b.key)
	got, err := Do(b.Context(), other, b.key, r.run, &DoOpts{WaitBound: NoWait})
	b.wantResult(got, err, rideResult, true)
	unlock()

	b.key = Key{"acct_42/charges", NewID()} // released: the lock is waited for
	r = ride{b: b, call: func(context.Context, StepContext) (string, error) { return "", errDown }}
	if _, err := Do(b.Context(), b.client, b.key, r.run); !errors.Is(err, errDown) {
		t.Fatalf("got %v, want the step's own error", err)
	}
	r.call = nil
	unlock = b.lockKey(b.key)
	waiting := async(b, func() (Result[string], error) { return Do(b.Context(), other, b.key, r.run) })
	b.lockAwaited("the caller waits for the lock", 1)
	unlock()
	a = <-waiting
	b.wantResult(a.Result, a.err, rideResult, false)
}
