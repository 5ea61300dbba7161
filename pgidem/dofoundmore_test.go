package pgidem

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The tagger's own connection is prepared as the pool's are: where AfterConnect leads to the tables, it finds them.
func TestTaggerIsPreparedAsThePoolIs(t *testing.T) {
	b := setup(t)
	for _, sql := range []string{"CREATE SCHEMA app", "ALTER TABLE idempotency_keys SET SCHEMA app", "ALTER TABLE idempotency_steps SET SCHEMA app"} {
		b.must(b.observe().Exec(b.Context(), sql))
	}
	inApp := withPool(func(p *pgxpool.Config) {
		p.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
			return second(c.Exec(ctx, "SET search_path = app, public"))
		}
	})
	client, _, _ := b.newClient(inApp, direct("it prepares its sessions"))
	got, err := Do(b.Context(), client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "call", func(context.Context, StepContext) (string, error) {
			before := client.liveness.get()
			b.killLiveness(client)
			in := b.newInstance(client, before)
			b.until("the row is tagged anew", "SELECT owner = $1 FROM app.idempotency_keys WHERE id = $2", in.id, b.key.ID)
			return "called", nil
		})
	})
	b.wantResult(got, err, "called", false)
}

// Somebody else holds the row when the client gets a new instance, so that the tagger passes over it, and a checkpoint waits for it: behind
// the checkpoint the row has the new number.
func TestCheckpointTagsARowThatSomebodyHeld(t *testing.T) {
	b := setup(t)
	b.warmDo(b.client)
	answers := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			var holder pgx.Tx
			_, err := Step(ctx, op, "one", func(context.Context, StepContext) (string, error) {
				var err error
				holder, err = b.observe().Begin(b.Context())
				b.must(holder, err)
				b.must(holder.Exec(b.Context(), "SELECT FROM idempotency_keys WHERE id = $1 FOR SHARE", b.key.ID))
				before := b.client.liveness.get()
				b.killLiveness(b.client)
				b.newInstance(b.client, before)
				go func() { // when the checkpoint waits for the row
					b.until("the checkpoint waits", `SELECT count(*) >= 1 FROM pg_stat_activity WHERE datname = current_database()
						AND wait_event_type = 'Lock' AND query LIKE '%StepRecord%'`)
					_ = holder.Rollback(context.WithoutCancel(b.Context()))
				}()
				return "one", nil
			})
			if err != nil {
				return "", err
			}
			return Step(ctx, op, "two", func(context.Context, StepContext) (string, error) {
				b.until("the row is tagged anew", "SELECT owner = $1 FROM idempotency_keys WHERE id = $2", b.client.liveness.get().id, b.key.ID)
				return "two", nil
			})
		})
	})
	a := <-answers
	b.wantResult(a.Result, a.err, "two", false)
}

// A release whose steps do not fit the record does not use up the attempts of an operation that is in order.
func TestUnfitReleaseIsNoAttempt(t *testing.T) {
	b := setup(t)
	down := errors.New("the provider is down")
	r := ride{b: b, call: func(context.Context, StepContext) (string, error) { return "", down }}
	if _, err := Do(b.Context(), b.client, b.key, r.run); !errors.Is(err, down) {
		t.Fatalf("got %v, want the call's error", err)
	}
	for range DefaultMaxAttempts + 1 {
		_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			return StepTx(ctx, op, "another", b.effect("never"))
		})
		b.wantError(err, ErrSteps)
	}
	r.call = nil
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	b.wantEffects(2)
}

// A function that ends the transaction of its first step is told so, also where the claim is part of it.
func TestFirstStepEndedByHand(t *testing.T) {
	for name, opts := range map[string]*DoOpts{"Plain": nil, "StartsWithTx": {StartsWithTx: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
				return StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
					return "created", second(tx.Exec(ctx, "COMMIT AND CHAIN"))
				})
			}, opts)
			b.wantError(err, ErrTxEnded)
		})
	}
}

// A run that undoes, and whose function fails before it has asked for every step, says why it has failed.
func TestUndoTellsTheFunctionsOwnError(t *testing.T) {
	b := setup(t)
	down := errors.New("the configuration cannot be read")
	early, undoWorks := false, false
	run := func(ctx context.Context, op *Op) (string, error) {
		if early {
			return "", down
		}
		_, err := StepTx(ctx, op, "create", b.effect("created"), &StepOpts[string]{UndoTx: func(context.Context, Tx, string) error {
			if undoWorks {
				return nil
			}
			return errors.New("not yet")
		}})
		if err != nil {
			return "", err
		}
		return "", Permanent(&Failure{Code: "refused"})
	}
	_, err := Do(b.Context(), b.client, b.key, run)
	b.wantError(err, ErrUndoing)
	early = true
	if _, err := Do(b.Context(), b.client, b.key, run); !errors.Is(err, down) || errors.Is(err, ErrSteps) {
		t.Errorf("got %v, want the function's own error", err)
	}
	early, undoWorks = false, true
	_, err = Do(b.Context(), b.client, b.key, run)
	var failure *Failure
	if !errors.As(err, &failure) || failure.Code != "refused" {
		t.Errorf("got %v, want the failure", err)
	}
}
