package pgidem

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Several keys in one transaction, a failing one among them, and inside each other.
func TestInTxSeveralKeys(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	b.must(InTx(b.Context(), b.client, tx, Key{"s", "one"}, b.effectIn(tx, "")))
	_, err := InTx(b.Context(), b.client, tx, Key{"s", "outer"}, func(ctx context.Context) (string, error) {
		b.must(b.effectIn(tx, "")(ctx))
		b.must(InTx(ctx, b.client, tx, Key{"s", "inner"}, b.effectIn(tx, "")))
		failed := errors.New("failed")
		_, err := InTx(ctx, b.client, tx, Key{"s", "failing"}, func(ctx context.Context) (string, error) {
			b.must(b.effectIn(tx, "")(ctx))
			return "", failed
		})
		if !errors.Is(err, failed) {
			b.Errorf("got %v, want the inner function's error", err)
		}
		return "outer", nil
	})
	b.must(nil, err)
	b.wantAlive(tx)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(3) // one, outer, inner
	if n := one[int](b, b.observe(), "SELECT count(*) FROM idempotency_keys"); n != 3 {
		b.Errorf("%d keys are saved, want 3", n)
	}
}

// Inside the transaction of a DoTx, whose own fence is the same setting.
func TestInTxInsideDoTx(t *testing.T) {
	b := setup(t)
	call := func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
			for n, fail := range []error{nil, errors.New("inner"), Permanent(errors.New("inner"))} {
				_, err := InTx(ctx, b.client, tx, Key{"inner", string(rune('a' + n))}, func(ctx context.Context) (string, error) {
					b.must(b.effectIn(tx, "")(ctx))
					return "", fail
				})
				if (err == nil) != (fail == nil) {
					b.Errorf("got %v from the inner operation", err)
				}
			}
			fresh, err := MarkTx(ctx, b.client, tx, "inner marks", []string{"m"})
			if len(fresh) != 1 {
				b.Errorf("fresh are %v", fresh)
			}
			return "outer", err
		})
	}
	got, err := call()
	b.wantResult(got, err, "outer", false)
	b.wantEffects(1)
	got, err = call()
	b.wantResult(got, err, "outer", true)
}

// review 15: the same key inside itself is refused, whichever way in is outside.
func TestReview15InTxNestedSameKeyIsRefused(t *testing.T) {
	b := setup(t)
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := InTx(ctx, b.client, tx, b.key, b.effectIn(tx, "never"))
		b.wantError(err, ErrNested)
		_, err = MarkTx(ctx, b.client, tx, b.key.Scope, []string{"other", b.key.ID})
		b.wantError(err, ErrNested)
		return b.effect("outer")(ctx, tx)
	})
	b.wantResult(got, err, "outer", false)
	b.wantEffects(1)

	b.key = Key{"s", "InTx outside"}
	tx := b.begin()
	got, err = InTx(b.Context(), b.client, tx, b.key, func(ctx context.Context) (string, error) {
		_, err := DoTx(ctx, b.client, b.key, b.effect("never"))
		b.wantError(err, ErrNested)
		_, err = InTx(ctx, b.client, tx, b.key, b.effectIn(tx, "never"))
		b.wantError(err, ErrNested)
		return b.effectIn(tx, "outer")(ctx)
	})
	b.wantResult(got, err, "outer", false)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(1)

	// Where the context is lost on the way, the unique row refuses in the end.
	b.key = Key{"s", "lost context"}
	tx = b.begin()
	runs := 0
	_, err = InTx(b.Context(), b.client, tx, b.key, func(context.Context) (string, error) {
		runs++
		return "outer", second(InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "inner")))
	})
	b.wantError(err, ErrUnavailable)
	if runs != 1+maxRounds {
		b.Errorf("the function ran %d times, want %d", runs, 1+maxRounds)
	}
	b.wantAlive(tx)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(0)
}

// review 11, 13: another kind is refused, an expired row of any kind is not.
func TestReview11InTxAnotherKind(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	b.must(MarkTx(b.Context(), b.client, tx, b.key.Scope, []string{b.key.ID}))
	_, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "never"))
	b.wantError(err, ErrKeyReused)
	b.must(tx.Exec(b.Context(), "UPDATE idempotency_keys SET created_at = 'yesterday', finished_at = 'yesterday', expires_at = clock_timestamp()"))
	got, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "done"))
	b.wantResult(got, err, "done", false)
	b.must(nil, tx.Commit(b.Context()))
}

// G1 without any advisory lock. The second transaction's INSERT meets the first one's row, and does not wait for it.
func TestG1OfInTxWithoutLocks(t *testing.T) {
	b := setup(t)
	withoutLocks(b.client)
	first, later := b.begin(), b.begin()
	b.must(InTx(b.Context(), b.client, first, b.key, b.effectIn(first, "first")))
	_, err := InTx(b.Context(), b.client, later, b.key, b.effectIn(later, "second"))
	b.wantError(err, ErrInProgress)
	b.wantAlive(later)
	got, err := InTx(b.Context(), b.client, later, b.key, func(ctx context.Context) (string, error) {
		b.must(nil, first.Commit(ctx)) // between the claim and the INSERT
		return b.effectIn(later, "second")(ctx)
	})
	b.wantResult(got, err, "first", true)
	b.must(nil, later.Commit(b.Context()))
	b.wantEffects(1)
}

// review 20: somebody else's row that is not committed is not waited for, however long lock_timeout is; that stays as it was,
// and the caller's transaction lives.
func TestReview20InTxDoesNotWaitForAMark(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.LockTimeout = time.Hour }))
	b.must(b.pool.Exec(b.Context(), `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		RAISE 'the INSERT would wait for %', current_setting('lock_timeout'); END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON idempotency_keys FOR EACH ROW
		WHEN (NEW.kind = 'tx' AND current_setting('lock_timeout') <> '10ms') EXECUTE FUNCTION refuse()`))
	marker, tx := b.begin(), b.begin()
	b.must(MarkTx(b.Context(), b.client, marker, b.key.Scope, []string{b.key.ID})) // takes no lock
	_, err := InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "never"))
	b.wantError(err, ErrInProgress)
	b.wantAlive(tx)
	b.must(nil, marker.Commit(b.Context()))
	_, err = InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, "never"))
	b.wantError(err, ErrKeyReused)
	b.must(nil, tx.Commit(b.Context()))
	b.wantEffects(0)
}

// review 23: a deadlock between two callers' transactions is reported as such, and the transaction can still be used.
func TestReview23InTxDeadlock(t *testing.T) {
	b := setup(t)
	b.must(b.pool.Exec(b.Context(), "INSERT INTO effects (key) VALUES ('a'), ('b')"))
	update := func(tx pgx.Tx, key string) func(context.Context) (string, error) {
		return func(ctx context.Context) (string, error) {
			_, err := tx.Exec(ctx, "UPDATE effects SET key = key WHERE key = $1", key)
			return key, err
		}
	}
	one, two := b.begin(), b.begin()
	b.must(InTx(b.Context(), b.client, one, Key{"one", "a"}, update(one, "a")))
	b.must(InTx(b.Context(), b.client, two, Key{"two", "b"}, update(two, "b")))
	first := async(b, func() (Result[string], error) {
		return InTx(b.Context(), b.client, one, Key{"one", "b"}, update(one, "b"))
	})
	second := async(b, func() (Result[string], error) {
		return InTx(b.Context(), b.client, two, Key{"two", "a"}, update(two, "a"))
	})
	var err error
	var victim, other pgx.Tx
	var others <-chan answer[string]
	select { // the server chooses
	case a := <-first:
		err, victim, other, others = a.err, one, two, second
	case a := <-second:
		err, victim, other, others = a.err, two, one, first
	}
	if !errors.Is(err, ErrDeadlock) || sqlState(err) != deadlockDetected || !strings.Contains(err.Error(), "run it again") {
		b.Errorf("got %v, want %v over the server's 40P01, that says what to do", err, ErrDeadlock)
	}
	b.wantAlive(victim)
	b.must(nil, victim.Rollback(b.Context())) // it still has the lock of its first key's row
	b.must(nil, (<-others).err)
	b.must(nil, other.Commit(b.Context()))
}

// DoTx runs its own transaction again, also when the deadlock was reported from inside.
func TestInTxDeadlockInsideDoTx(t *testing.T) {
	b := setup(t)
	runs := 0
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		runs++
		inner, err := InTx(ctx, b.client, tx, Key{"s", "inner"}, func(ctx context.Context) (string, error) {
			if runs == 1 {
				return "", second(tx.Exec(ctx, "DO $$ BEGIN RAISE SQLSTATE '40P01'; END $$"))
			}
			return b.effect("done")(ctx, tx)
		})
		return inner.Value, err
	})
	b.wantResult(got, err, "done", false)
	b.wantEffects(1)
}

// review 28: a result is not saved with less than the durability that it is promised with.
func TestReview28InTxRaisesSynchronousCommit(t *testing.T) {
	b := setup(t)
	for _, call := range []func(tx pgx.Tx) error{
		func(tx pgx.Tx) error { return second(InTx(b.Context(), b.client, tx, b.key, b.effectIn(tx, ""))) },
		func(tx pgx.Tx) error { return second(MarkTx(b.Context(), b.client, tx, "s", []string{"m"})) },
	} {
		tx := b.begin()
		b.must(tx.Exec(b.Context(), "SET LOCAL synchronous_commit = off"))
		b.must(nil, call(tx))
		var setting string
		b.must(nil, tx.QueryRow(b.Context(), "SHOW synchronous_commit").Scan(&setting))
		if setting != "on" {
			b.Errorf("synchronous_commit is %q behind the call, want on", setting)
		}
	}
}
