package pgidem

import (
	"context"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// G1 without any advisory lock: the unique row is the guarantee. Many clients, each a process to the library, run the
// same keys at once; every run really happens side by side, because each waits until all have written.
func TestG1WithoutLocks(t *testing.T) {
	b := setup(t)
	const clients, keys = 6, 25
	for n := range keys {
		b.key = Key{Scope: "nolocks", ID: NewID()}
		opts := &TxOpts{}
		if n%5 == 4 { // an expired row is replaced, and the replacing is raced for too
			b.must(DoTx(b.Context(), b.client, b.key, b.effect("old"), &TxOpts{TTL: time.Microsecond}))
		}
		met := newRendezvous(clients)
		var answers []<-chan answer[string]
		for range clients {
			client := b.client
			if len(answers) > 0 {
				client = b.clientOfItsOwn()
			}
			withoutLocks(client)
			answers = append(answers, async(b, func() (Result[string], error) {
				return DoTx(b.Context(), client, b.key, func(ctx context.Context, tx Tx) (string, error) {
					_, err := b.effect("")(ctx, tx)
					met.wait(ctx)
					return NewID(), err
				}, opts)
			}))
		}
		fresh, value := 0, ""
		for _, answers := range answers {
			a := <-answers
			if a.err != nil {
				b.Fatal(a.err)
			}
			if !a.Replayed {
				fresh++
			}
			if value != "" && a.Value != value {
				b.Errorf("one caller got %s, another %s", value, a.Value)
			}
			value = a.Value
		}
		if fresh != 1 {
			b.Errorf("%d callers say that they ran the key, want 1", fresh)
		}
		want := 1
		if n%5 == 4 {
			want = 2 // the old life and the new one
		}
		b.wantEffects(want)
	}
}

// review 1: replacing an expired row must raise where it loses the race, because COMMIT is already on its way.
func TestReview01LosingTheRaceForAnExpiredKeyRaises(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("old"), &TxOpts{TTL: time.Microsecond}))
	withoutLocks(b.client)
	other := b.clientOfItsOwn()
	withoutLocks(other)
	b.warm(b.client, b.pool)
	hold := b.faults.Hold(faultconn.Point{SQL: "DELETE FROM idempotency_keys"})
	loser := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("loser")) })
	b.reached(hold) // it has read the expired row and written its effect
	got, err := DoTx(b.Context(), other, b.key, b.effect("winner"))
	b.wantResult(got, err, "winner", false)
	hold.Release()
	a := <-loser
	b.wantResult(a.Result, a.err, "winner", true)
	b.wantEffects(2) // the old life's and the winner's
}

// clientOfItsOwn is a client of another process, as far as the library can see.
func (b *bundle) clientOfItsOwn() *Client {
	b.Helper()
	client, err := New(b.pool, Config{})
	if err != nil {
		b.Fatal(err)
	}
	return client
}

// rendezvous lets n goroutines go on when all have come; those who come later do not wait.
type rendezvous struct {
	coming chan struct{}
	met    chan struct{}
}

func newRendezvous(n int) *rendezvous {
	r := &rendezvous{coming: make(chan struct{}, n-1), met: make(chan struct{})}
	return r
}

func (r *rendezvous) wait(ctx context.Context) {
	select {
	case r.coming <- struct{}{}:
	default: // the last one
		select {
		case <-r.met:
		default:
			close(r.met)
		}
	}
	select {
	case <-r.met:
	case <-ctx.Done():
	}
}
