package pgidem

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ride is the usual operation of the tests: tx, call, tx. It writes one effect in each transaction and counts its calls.
type ride struct {
	b       *bundle
	creates int
	calls   int
	keys    []string
	ends    int
	call    func(ctx context.Context, s StepContext) (string, error) // instead of "charged"
	receipt func(ctx context.Context, tx Tx) (string, error)
}

func (r *ride) run(ctx context.Context, op *Op) (string, error) {
	created, err := StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
		r.creates++
		return r.b.effect("created")(ctx, tx)
	})
	if err != nil {
		return "", err
	}
	charge, err := Step(ctx, op, "charge", func(ctx context.Context, s StepContext) (string, error) {
		r.calls++
		r.keys = append(r.keys, s.Key())
		if r.call != nil {
			return r.call(ctx, s)
		}
		return "charged", nil
	})
	if err != nil {
		return "", err
	}
	return FinishTx(ctx, op, "receipt", func(ctx context.Context, tx Tx) (string, error) {
		r.ends++
		if r.receipt != nil {
			return r.receipt(ctx, tx)
		}
		_, err := r.b.effect("")(ctx, tx)
		return created + ", " + charge + ", receipt", err
	})
}

const rideResult = "created, charged, receipt"

func TestDo(t *testing.T) {
	for name, opts := range map[string]*DoOpts{"Plain": nil, "StartsWithTx": {StartsWithTx: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			r := ride{b: b}
			got, err := Do(b.Context(), b.client, b.key, r.run, opts)
			b.wantResult(got, err, rideResult, false)
			again, err := Do(b.Context(), b.client, b.key, r.run, opts)
			b.wantResult(again, err, rideResult, true)
			if r.creates != 1 || r.calls != 1 || r.ends != 1 {
				t.Errorf("the steps ran %d, %d and %d times, want once each", r.creates, r.calls, r.ends)
			}
			b.wantEffects(2)
			b.wantState(stateSucceeded)
		})
	}
}

func TestDoResumesBehindAnError(t *testing.T) {
	for name, opts := range map[string]*DoOpts{"Plain": nil, "StartsWithTx": {StartsWithTx: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			down := errors.New("the provider is down")
			r := ride{b: b}
			r.call = func(context.Context, StepContext) (string, error) { return "", down }
			if _, err := Do(b.Context(), b.client, b.key, r.run, opts); !errors.Is(err, down) {
				t.Fatalf("got %v, want the step's own error", err)
			}
			b.wantState(stateReleased)
			r.call = nil
			other, _, _ := b.newClient()
			got, err := Do(b.Context(), other, b.key, r.run, opts)
			b.wantResult(got, err, rideResult, false)
			if got.Attempt != 2 || got.ResumedAfter != "create" {
				t.Errorf("attempt %d, resumed after %q; want 2, create", got.Attempt, got.ResumedAfter)
			}
			if r.creates != 1 || r.calls != 2 || r.ends != 1 || r.keys[0] != r.keys[1] {
				t.Errorf("the steps ran %d, %d and %d times with keys %v; want 1, 2, 1 and one key", r.creates, r.calls, r.ends, r.keys)
			}
			b.wantEffects(2)
		})
	}
}

func TestDoWaitsForALiveOwner(t *testing.T) {
	b := setup(t)
	r := ride{b: b}
	inCall, goOn := make(chan struct{}), make(chan struct{})
	r.call = func(context.Context, StepContext) (string, error) {
		close(inCall)
		<-goOn
		return "charged", nil
	}
	first := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run) })
	<-inCall
	other, _, _ := b.newClient()
	_, err := Do(b.Context(), other, b.key, r.run, &DoOpts{WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	waiting := async(b, func() (Result[string], error) { return Do(b.Context(), other, b.key, r.run) })
	same := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, r.run) })
	close(goOn)
	a := <-first
	b.wantResult(a.Result, a.err, rideResult, false)
	for _, answers := range []<-chan answer[string]{waiting, same} {
		a := <-answers
		b.wantResult(a.Result, a.err, rideResult, true)
	}
	if r.calls != 1 {
		t.Errorf("%d calls, want 1", r.calls)
	}
}

// A liveness connection that is gone looks like a death: another process takes over, and the old owner writes nothing more.
func TestTakeoverFromALostLivenessConnection(t *testing.T) {
	var refuse atomic.Bool
	b := setup(t, withPool(func(p *pgxpool.Config) {
		p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if refuse.Load() {
				return errors.New("no new connections for the zombie")
			}
			return nil
		}
	}))
	zombie := ride{b: b}
	inCall, goOn := make(chan struct{}), make(chan struct{})
	zombie.call = func(context.Context, StepContext) (string, error) {
		close(inCall)
		<-goOn
		return "late", nil
	}
	first := async(b, func() (Result[string], error) { return Do(b.Context(), b.client, b.key, zombie.run) })
	<-inCall
	refuse.Store(true)
	b.killLiveness(b.client)
	other, _, _ := b.newClient()
	taker := ride{b: b}
	got, err := Do(b.Context(), other, b.key, taker.run)
	b.wantResult(got, err, rideResult, false)
	close(goOn)
	a := <-first
	b.wantResult(a.Result, a.err, rideResult, true)
	if zombie.ends != 0 || taker.creates != 0 || taker.calls != 1 || taker.ends != 1 || got.Attempt != 2 {
		t.Errorf("zombie %+v, taker %+v, attempt %d", zombie, taker, got.Attempt)
	}
	b.wantEffects(2)
	refuse.Store(false)
}

// Without a taker the owner gets a new instance, its row is tagged anew, and it goes on.
func TestLostLivenessConnectionIsReplaced(t *testing.T) {
	b := setup(t)
	r := ride{b: b}
	r.call = func(context.Context, StepContext) (string, error) {
		before := b.client.liveness.get().id
		b.killLiveness(b.client)
		b.until("the row is tagged anew", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", before, b.key.ID)
		return "charged", nil
	}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		t.Errorf("attempt %d, want 1", got.Attempt)
	}
}

// killLiveness ends the server's side of a client's liveness connection.
func (b *bundle) killLiveness(c *Client) {
	b.Helper()
	in := c.liveness.get()
	if in == nil {
		b.Fatal("there is no liveness connection")
	}
	high, low := in.halves()
	b.must(b.observe().Exec(b.Context(), `SELECT pg_terminate_backend(pid, 5000) FROM pg_locks
		WHERE locktype = 'advisory' AND objsubid = 2 AND classid = $1::bigint::oid AND objid = $2::bigint::oid`, int64(high)&0xffffffff, int64(low)&0xffffffff))
}
