package pgidem

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// The COMMIT of a definite failure is lost and undone, and a success of another process comes first: it counts.
func TestLostFailureBehindASuccess(t *testing.T) {
	b := setup(t, withConfig(patience))
	b.warm(b.client, b.pool)
	other, _, _ := b.newClient(withConfig(patience))
	hold := b.faults.Hold(atCommit(faultconn.Before))
	first := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) { return "", Permanent(errors.New("no")) })
	})
	b.reached(hold)
	second := async(b, func() (Result[string], error) { return DoTx(b.Context(), other, b.key, b.effect("success")) })
	b.lockAwaited("the other process waits", 1)
	hold.Cut()
	a := <-second
	b.wantResult(a.Result, a.err, "success", false)
	a = <-first
	b.wantResult(a.Result, a.err, "success", true)
	b.wantEffects(1)
	b.wantState(stateSucceeded)
}

// The barrier is lost too, and meanwhile somebody forgets the key: it is absent then, so fn runs again; or it has been
// run anew, which is replayed.
func TestForgottenBehindALostBarrier(t *testing.T) {
	for name, anew := range map[string]bool{"Absent": false, "SomebodyElses": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(patience))
			b.warm(b.client, b.pool)
			b.faults.RefuseCancel(true)
			b.faults.Cut(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
			barrier := b.faults.Hold(faultconn.Point{SQL: "UPDATE idempotency_keys"})
			first := b.call(b.client, b.key, "first")
			b.reached(barrier)
			deleted := b.observe()
			tx, err := deleted.Begin(b.Context())
			b.must(tx, err)
			b.must(tx.Exec(b.Context(), "DELETE FROM idempotency_keys WHERE scope = $1 AND id = $2", b.key.Scope, b.key.ID))
			want := "first"
			if anew {
				want = "anew"
				b.must(tx.Exec(b.Context(), `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, result, finished_at, expires_at)
					VALUES ($1, $2, 'tx', 'succeeded', gen_random_uuid(), 1, '"anew"', clock_timestamp(), clock_timestamp() + interval '1 hour')`,
					b.key.Scope, b.key.ID))
			}
			b.must(nil, tx.Commit(b.Context()))
			barrier.Cut()
			a := answered(b, first)
			b.wantResult(a.Result, a.err, want, anew)
			b.wantState(stateSucceeded)
			if anew {
				b.wantEffects(1) // of the life that was forgotten
			} else {
				b.wantEffects(2) // and of the new one
			}
		})
	}
}

// The COMMIT of Forget is lost: the caller is told that it does not know, and the next call tells.
func TestLostForget(t *testing.T) {
	sent := faultconn.Point{SQL: "commit", Match: func(m faultconn.Message) bool { return strings.EqualFold(m.SQL, "commit") }}
	for name, c := range map[string]struct {
		point faultconn.Point
		again error
	}{
		"NotSent":  {sent, nil},
		"Answered": {faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"}, ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.warm(b.client, b.pool)
			b.must(DoTx(b.Context(), b.client, b.key, b.effect("saved")))
			b.faults.RefuseCancel(true)
			cut := b.faults.Cut(c.point)
			b.wantError(b.client.Forget(b.Context(), b.key), ErrUnknownOutcome)
			if !cut.Fired() {
				b.Fatal("the cut did not strike")
			}
			if err := b.client.Forget(b.Context(), b.key); !errors.Is(err, c.again) {
				b.Errorf("the next call got %v, want %v", err, c.again)
			}
			b.wantState("")
		})
	}
}
