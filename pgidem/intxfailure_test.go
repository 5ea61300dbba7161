package pgidem

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

// review 26: a definite failure undoes what fn wrote and is saved in the same transaction.
func TestReview26InTxPermanent(t *testing.T) {
	for name, strike := range map[string]string{"Clean": "SELECT 1", "Aborted": "SELECT 1/0"} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			other, _, _ := b.newClient()
			cause := errors.New("declined")
			tx := b.begin()
			var waiting <-chan answer[string]
			saved := make(chan struct{})
			_, err := InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
				_, err := b.effectIn(tx, "")(ctx)
				b.must(nil, err)
				// Who waits for the lock gets it when the function's writes are rolled back, and the row decides.
				waiting = async(b, func() (Result[string], error) {
					return DoTx(b.Context(), other, b.key, func(ctx context.Context, tx Tx) (string, error) {
						select {
						case <-saved:
						case <-ctx.Done():
						}
						return b.effect("second")(ctx, tx)
					})
				})
				b.lockAwaited("the other process waits", 1)
				_, _ = tx.Exec(ctx, strike)
				return "", Permanent(&Failure{Code: "no", Message: cause.Error()})
			})
			close(saved)
			var failure *Failure
			if !errors.As(err, &failure) || failure.Code != "no" {
				b.Fatalf("got %v, want the failure", err)
			}
			b.wantAlive(tx)
			got, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "never"))
			if !errors.As(err, &failure) || !got.Replayed {
				b.Errorf("got %+v, %v; want the failure replayed", got, err)
			}
			b.must(nil, tx.Commit(b.Context()))
			if a := <-waiting; !errors.As(a.err, &failure) || !a.Replayed {
				b.Errorf("the other process got %+v, want the failure replayed", a)
			}
			b.wantEffects(0)
			b.wantState(stateFailed)
		})
	}
}

// A failure that could not be saved is not handed out as one that was.
func TestInTxFailureThatIsNotSaved(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.MaxResultBytes = 100 }))
	tx := b.begin()
	fail := Permanent(&Failure{Code: "declined", Message: strings.Repeat("x", 100)})
	_, err := InTx(b.Context(), b.client, tx, b.key, func(context.Context) (string, error) { return "", fail })
	b.wantError(err, ErrResult)
	b.wantUnsaved(err, fail)
	b.wantAlive(tx)
	b.must(nil, tx.Commit(b.Context()))
	b.wantState("")
}

// A DoTx that waits gets the lock when the function's writes are rolled back, runs, and meets the failure's row before that is
// committed: it waits for the caller's COMMIT within its own wait and replays, without running once more.
func TestReview26InTxPermanentBesideAWaiter(t *testing.T) {
	// GivesUp has to be seen waiting before its bound ends, also on a machine that is slow: its probe is not part of that.
	for name, bound := range map[string]time.Duration{"Waits": DefaultWaitBound, "GivesUp": 4 * time.Second} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			other, otherPool, _ := b.newClient()
			b.warm(other, otherPool)
			tx := b.begin()
			runs := 0
			var waiting <-chan answer[string]
			saved := make(chan struct{})
			fail := Permanent(&Failure{Code: "declined"})
			_, err := InTx(b.Context(), b.client, tx, b.key, func(context.Context) (string, error) {
				waiting = async(b, func() (Result[string], error) {
					return DoTx(b.Context(), other, b.key, func(ctx context.Context, tx Tx) (string, error) {
						runs++
						<-saved
						return b.effect("second")(ctx, tx)
					}, &TxOpts{WaitBound: bound})
				})
				b.lockAwaited("the other process waits", 1)
				return "", fail
			})
			close(saved)
			var failure *Failure
			if !errors.As(err, &failure) {
				b.Errorf("got %v, want the failure", err)
			}
			if bound == DefaultWaitBound {
				b.until("the other process waits for the row", `SELECT count(*) = 1 FROM pg_stat_activity
					WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'transactionid'`)
				b.must(nil, tx.Commit(b.Context()))
				a := <-waiting
				if !errors.As(a.err, &failure) || !a.Replayed {
					b.Errorf("the other process got %+v, want the failure replayed", a)
				}
			} else {
				b.wantError((<-waiting).err, ErrInProgress)
				b.must(nil, tx.Commit(b.Context()))
			}
			if runs != 1 {
				b.Errorf("the other process ran its function %d times, want 1", runs)
			}
			b.wantEffects(0)
			b.wantState(stateFailed)
		})
	}
}

// The definite failure is saved although the caller's context has ended; a success that was saved meanwhile wins.
func TestInTxPermanentLate(t *testing.T) {
	b := setup(t)
	ctx, cancel := context.WithCancel(b.Context())
	tx := b.begin()
	_, err := InTx(ctx, b.client, tx, b.key, func(context.Context) (string, error) {
		cancel()
		return "", Permanent(errors.New("no"))
	})
	var failure *Failure
	if !errors.As(err, &failure) {
		b.Errorf("got %v, want the failure", err)
	}
	b.must(nil, tx.Commit(b.Context()))
	b.wantState(stateFailed)

	b.key = Key{"s", "success"}
	withoutLocks(b.client)
	tx = b.begin()
	got, err := InTx(b.Context(), b.client, tx, b.key, func(context.Context) (string, error) {
		b.must(DoTx(b.Context(), b.client, b.key, b.effect("success")))
		return "", Permanent(errors.New("no"))
	})
	b.wantResult(got, err, "success", true)
}
