package pgidem

import (
	"context"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// A definite failure is saved, without the writes that it undid, and everybody gets the same.
func TestPermanentIsSavedAndReplayed(t *testing.T) {
	b := setup(t)
	cause := errors.New("the card was declined")
	declined := &Failure{Code: "card_declined", Message: "no funds", Details: map[string]string{"balance": "3"}}
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := b.effect("")(ctx, tx)
		return "", errors.Join(err, Permanent(errors.Join(cause, declined)))
	})
	var first, later *Failure
	if !errors.As(err, &first) || !errors.Is(err, cause) {
		b.Fatalf("the first caller got %v, want a *Failure with its cause", err)
	}
	for _, opts := range []*TxOpts{nil, {Retry: true}} {
		got, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), opts)
		if !errors.As(err, &later) || errors.Is(err, cause) || !got.Replayed {
			b.Errorf("a replay got %+v, %v; want the *Failure without its cause", got, err)
		}
		if later.Code != first.Code || later.Message != first.Message || !reflect.DeepEqual(later.Details, first.Details) {
			b.Errorf("the first caller got %+v, a replay %+v", first, later)
		}
	}
	b.wantEffects(0)
	b.wantState(stateFailed)
}

// review 26: a success that was saved between the failing run and the saving of its failure is replayed.
func TestReview26SuccessThatWonMeanwhileIsReplayed(t *testing.T) {
	b := setup(t, withConfig(patience))
	b.warm(b.client, b.pool)
	other, _, _ := b.newClient(withConfig(patience))
	var second <-chan answer[string]
	// The other process waits for the lock, so it is the next to have it when the failing run has rolled back.
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := b.effect("")(ctx, tx)
		second = async(b, func() (Result[string], error) { return DoTx(b.Context(), other, b.key, b.effect("success")) })
		b.lockAwaited("the other process waits", 1)
		return "", errors.Join(err, Permanent(errors.New("no")))
	})
	a := <-second
	b.wantResult(a.Result, a.err, "success", false)
	b.wantResult(got, err, "success", true)
	b.wantEffects(1)
	b.wantState(stateSucceeded)
}

// The definite "no" is kept although somebody else has the key by then, and this caller would not wait for it: it waits
// until the other fails, and saves its own or gets the other's.
func TestPermanentBesideAWaiter(t *testing.T) {
	b := setup(t, withConfig(patience))
	other, _, _ := b.newClient(withConfig(patience)) // a wait that began anew would come after the first's
	var second <-chan answer[string]
	running, fail := make(chan struct{}), make(chan struct{})
	first := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) {
			second = async(b, func() (Result[string], error) {
				return DoTx(b.Context(), other, b.key, func(ctx context.Context, _ Tx) (string, error) {
					close(running)
					select {
					case <-fail:
					case <-ctx.Done():
					}
					return "", errors.New("transient")
				})
			})
			b.lockAwaited("the other process waits for the first", 1)
			return "", Permanent(errors.New("no"))
		}, &TxOpts{WaitBound: NoWait})
	})
	select {
	case <-running:
	case a := <-first:
		b.Fatalf("the first call has ended before the other one ran: %+v", a)
	}
	b.lockAwaited("the first waits to save its failure", 1)
	close(fail)
	var failure *Failure
	if a := <-first; !errors.As(a.err, &failure) {
		b.Errorf("got %v, want the failure", a.err)
	}
	<-second
	b.wantState(stateFailed)
}

// The definite "no" is kept although the caller has gone.
func TestPermanentAfterCancel(t *testing.T) {
	b := setup(t)
	ctx, cancel := context.WithCancel(b.Context())
	_, err := DoTx(ctx, b.client, b.key, func(context.Context, Tx) (string, error) {
		cancel()
		return "", Permanent(errors.New("no"))
	})
	var failure *Failure
	if !errors.As(err, &failure) {
		b.Errorf("got %v, want the failure", err)
	}
	b.wantState(stateFailed)
}

// review 11: a key keeps its kind; what another kind of operation left is not run over.
func TestReview11AnotherKindIsRefused(t *testing.T) {
	for state, insert := range map[string]string{
		"released":  "'steps', 'released', gen_random_uuid(), 1, NULL, gen_random_uuid(), NULL, NULL, NULL, NULL",
		"running":   "'steps', 'running', gen_random_uuid(), 1, 4711, gen_random_uuid(), NULL, NULL, NULL, NULL",
		"parked":    "'steps', 'parked', gen_random_uuid(), 1, NULL, gen_random_uuid(), NULL, '{}', NULL, NULL",
		"succeeded": "'mark', 'succeeded', gen_random_uuid(), 1, NULL, NULL, NULL, NULL, clock_timestamp(), clock_timestamp() + interval '1 hour'",
	} {
		t.Run(state, func(t *testing.T) {
			b := setup(t)
			b.must(b.pool.Exec(b.Context(), `INSERT INTO idempotency_keys
				(scope, id, kind, state, claim, attempt, owner, life, result, parked, finished_at, expires_at)
				VALUES ($1, $2, `+insert+`)`, b.key.Scope, b.key.ID))
			for _, opts := range []*TxOpts{nil, {Retry: true}} {
				_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), opts)
				b.wantError(err, ErrKeyReused)
			}
			b.wantEffects(0)
			b.wantState(state)
		})
	}
}

// review 13: expired comes first. Another request, even another kind, may have the key then; old steps are gone.
func TestReview13ExpiredKeyIsFree(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("old"), &TxOpts{Input: 1, TTL: time.Microsecond}))
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("new"), &TxOpts{Input: 2})
	b.wantResult(got, err, "new", false)
	b.wantEffects(2)

	b.key = Key{"s", "steps"}
	b.must(b.pool.Exec(b.Context(), `
		INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, life, result, created_at, finished_at, expires_at)
		VALUES ('s', 'steps', 'steps', 'succeeded', gen_random_uuid(), 1, gen_random_uuid(), '1',
			clock_timestamp() - interval '2 days', clock_timestamp() - interval '2 days', clock_timestamp() - interval '1 day')`))
	b.must(b.pool.Exec(b.Context(), `INSERT INTO idempotency_steps (scope, id, name, ordinal, claim, result, recorded_at)
		VALUES ('s', 'steps', 'old', 1, gen_random_uuid(), '1', clock_timestamp())`))
	got, err = DoTx(b.Context(), b.client, b.key, b.effect("new"))
	b.wantResult(got, err, "new", false)
	if n := one[int](b, b.pool, "SELECT count(*) FROM idempotency_steps"); n != 0 {
		b.Errorf("%d steps of the old life are left", n)
	}
}

// Unfinished rows never expire, whatever stands in them.
func TestTombstone(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("old")))
	b.must(b.pool.Exec(b.Context(), "UPDATE idempotency_keys SET state = 'tombstone', result = NULL"))
	for _, opts := range []*TxOpts{nil, {Retry: true}} {
		_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), opts)
		b.wantError(err, ErrExpired)
	}
	b.wantEffects(1)
}

func TestFingerprintMismatch(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("saved"), &TxOpts{Input: map[string]int{"amount": 1}}))
	for _, opts := range []*TxOpts{
		{Input: map[string]int{"amount": 2}},
		{Input: map[string]int{"amount": 2}, Retry: true},
		{Fingerprint: NewFingerprint([]byte("other"))},
		{Fingerprint: Fingerprint{algorithm: 99, digest: []byte("later release")}},
	} {
		_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), opts)
		b.wantError(err, ErrKeyReused)
	}
	for _, opts := range []*TxOpts{{Input: map[string]int{"amount": 1}}, nil} {
		got, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), opts)
		b.wantResult(got, err, "saved", true)
	}
	b.wantEffects(1)
}

// TTL counts from completion, by the database's clock.
func TestTTL(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.TTL = 2 * time.Hour }))
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("")))
	other := Key{"s", "own TTL"}
	b.must(DoTx(b.Context(), b.client, other, b.effect(""), &TxOpts{TTL: time.Minute}))
	for key, want := range map[Key]time.Duration{b.key: 2 * time.Hour, other: time.Minute} {
		record, err := Lookup[string](b.Context(), b.client, key)
		b.must(record, err)
		if got := record.Expires.Sub(record.Finished).Round(time.Second); got != want {
			b.Errorf("%v expires %v after it finished, want %v", key, got, want)
		}
	}
}

func TestLookup(t *testing.T) {
	b := setup(t)
	_, err := Lookup[string](b.Context(), b.client, b.key)
	b.wantError(err, ErrNotFound)
	b.must(DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := Lookup[string](ctx, b.client, b.key) // nothing is there before COMMIT
		b.wantError(err, ErrNotFound)
		return b.effect("saved")(ctx, tx)
	}))
	record, err := Lookup[string](b.Context(), b.client, b.key)
	if err != nil || record.Key != b.key || record.Kind != kindTx || record.State != stateSucceeded || record.Value != "saved" ||
		record.Attempt != 1 || record.Failure != nil || record.Expired || record.Created.After(record.Finished) {
		b.Errorf("got %+v, %v", record, err)
	}
	failed := Key{"s", "failed"}
	_, _ = DoTx(b.Context(), b.client, failed, func(context.Context, Tx) (string, error) {
		return "", Permanent(&Failure{Code: "no", Message: "never"})
	}, &TxOpts{TTL: time.Microsecond})
	record, err = Lookup[string](b.Context(), b.client, failed)
	if err != nil || record.State != stateFailed || record.Failure == nil || record.Failure.Code != "no" || !record.Expired {
		b.Errorf("got %+v, %v", record, err)
	}
}

func TestForget(t *testing.T) {
	b := setup(t)
	b.wantError(b.client.Forget(b.Context(), b.key), ErrNotFound)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("first")))
	b.must(nil, b.client.Forget(b.Context(), b.key))
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("second"))
	b.wantResult(got, err, "second", false)
	b.wantEffects(2)
}

// Forget does not need a wait bound where nobody holds the key.
func TestForgetNoWait(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.WaitBound = NoWait }))
	for range 20 {
		b.must(DoTx(b.Context(), b.client, b.key, b.effect("")))
		b.must(nil, b.client.Forget(b.Context(), b.key))
	}
	b.wantEffects(20)
}

// A caller that comes after Forget has returned does not join one that replays what was forgotten.
func TestForgottenIsNotReplayedLater(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("old")))
	hold := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "ROLLBACK"}) // the replay is over, its caller waits
	old := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("never")) })
	b.reached(hold)
	b.must(nil, b.client.Forget(b.Context(), b.key))
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("new"))
	b.wantResult(got, err, "new", false)
	hold.Release()
	a := <-old
	b.wantResult(a.Result, a.err, "old", true)
}

// Forget waits for a caller that holds the key, and leaves what is not finished alone.
func TestForgetOfAKeyInUse(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.WaitBound = 100 * time.Millisecond }))
	unlock := b.lockKey(b.key)
	b.wantError(b.client.Forget(b.Context(), b.key), ErrInProgress)
	unlock()
	for state, want := range map[string]error{"running": ErrInProgress, "parked": ErrParked} {
		b.key = Key{"s", state}
		b.must(b.pool.Exec(b.Context(), `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, owner, life, parked)
			VALUES ($1, $2, 'steps', $3::text, gen_random_uuid(), 1, CASE $3::text WHEN 'running' THEN 1 END, gen_random_uuid(),
				CASE $3::text WHEN 'parked' THEN '{}'::bytea END)`, b.key.Scope, b.key.ID, state))
		b.wantError(b.client.Forget(b.Context(), b.key), want)
		b.wantState(state)
	}
}
