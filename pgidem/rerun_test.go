package pgidem

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
)

// A real deadlock: two functions update the same two rows in opposite order. The server ends one of them, which runs
// again with a new transaction, and both keys have their writes exactly once. (TestReruns has the bound.)
func TestDeadlockRunsAgain(t *testing.T) {
	b := setup(t)
	b.must(b.pool.Exec(b.Context(), "CREATE TABLE accounts AS SELECT n, 0 AS balance FROM generate_series(1, 2) n"))
	met := newRendezvous(2)
	var runs atomic.Int32
	transfer := func(key Key, from, to int) <-chan answer[string] {
		return async(b, func() (Result[string], error) {
			return DoTx(b.Context(), b.client, key, func(ctx context.Context, tx Tx) (string, error) {
				runs.Add(1)
				_, err := tx.Exec(ctx, "UPDATE accounts SET balance = balance - 1 WHERE n = $1", from)
				if err != nil {
					return "", err
				}
				met.wait(ctx)
				_, err = tx.Exec(ctx, "UPDATE accounts SET balance = balance + 2 WHERE n = $1", to)
				return "moved", err
			})
		})
	}
	one1, two := transfer(Key{"transfers", "1 to 2"}, 1, 2), transfer(Key{"transfers", "2 to 1"}, 2, 1)
	for _, answers := range []<-chan answer[string]{one1, two} {
		a := <-answers
		b.wantResult(a.Result, a.err, "moved", false)
	}
	// More where the one that runs again takes its row before the one that waits for it has woken up.
	if n := runs.Load(); n < 3 {
		b.Errorf("the two functions ran %d times, want 3 at least: the one that the server ended runs again", n)
	}
	if sum := one[int](b, b.pool, "SELECT sum(balance) FILTER (WHERE balance = 1) FROM accounts"); sum != 2 {
		b.Errorf("the balances show other writes than one of each: the sum of those that are right is %d", sum)
	}
}

// 40001 and 40P01 wherever they come from: from a function that the caller's function calls, from a statement that
// travels with the result, from a deferred constraint at COMMIT. The operation runs until it goes through, or until
// Config.Reruns is used up; then the error is the server's, and nothing is left.
func TestRerunsFromEverywhere(t *testing.T) {
	const busy = "INSERT INTO busy DEFAULT VALUES"
	functions := map[string]func(context.Context, Tx) error{
		"NestedFunction": func(ctx context.Context, tx Tx) error { return second(tx.Exec(ctx, "SELECT outer_function()")) },
		"Last":           func(_ context.Context, tx Tx) error { return tx.Last("SELECT outer_function()") },
		"AtCommit":       func(ctx context.Context, tx Tx) error { return second(tx.Exec(ctx, busy)) },
		"LastAtCommit":   func(_ context.Context, tx Tx) error { return tx.Last(busy) },
	}
	for name, fn := range functions {
		for _, code := range []string{serializationFailure, deadlockDetected} {
			t.Run(name+"/"+code, func(t *testing.T) {
				b := setup(t, withConfig(func(c *Config) { c.Reruns = 2 }))
				// A sequence counts what is rolled back too; every third try goes through.
				b.must(b.pool.Exec(b.Context(), `
					CREATE SEQUENCE tries;
					CREATE TABLE busy (n int);
					CREATE FUNCTION inner_function() RETURNS void LANGUAGE plpgsql AS $$ BEGIN
						IF nextval('tries') % 3 <> 0 THEN RAISE EXCEPTION 'busy' USING ERRCODE = '`+code+`'; END IF;
					END $$;
					CREATE FUNCTION outer_function() RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM inner_function(); END $$;
					CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM outer_function(); RETURN NULL; END $$;
					CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON busy DEFERRABLE INITIALLY DEFERRED
						FOR EACH ROW EXECUTE FUNCTION at_commit()`))
				runs := 0
				run := func(ctx context.Context, tx Tx) (string, error) {
					runs++
					return "done", errors.Join(second(b.effect("")(ctx, tx)), fn(ctx, tx))
				}
				got, err := DoTx(b.Context(), b.client, b.key, run)
				b.wantResult(got, err, "done", false)
				b.wantRuns(&runs, 3)
				b.wantEffects(1)

				b.key, runs = Key{"s", NewID()}, 0
				b.client.config.Reruns = 1
				_, err = DoTx(b.Context(), b.client, b.key, run)
				if sqlState(err) != code {
					b.Errorf("got %v, want the server's %s", err, code)
				}
				b.wantRuns(&runs, 2)
				b.wantEffects(0)
				b.wantState("")
			})
		}
	}
}

// An error that the caller's SQL has dealt with is none: nothing runs again.
func TestCaughtDeadlockDoesNotRunAgain(t *testing.T) {
	b := setup(t)
	runs := 0
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		runs++
		_, err := tx.Exec(ctx, `DO $$ BEGIN
			RAISE EXCEPTION 'busy' USING ERRCODE = '40P01';
		EXCEPTION WHEN deadlock_detected THEN NULL;
		END $$`)
		return "done", errors.Join(err, second(b.effect("")(ctx, tx)))
	})
	b.wantResult(got, err, "done", false)
	b.wantRuns(&runs, 1)
	b.wantEffects(1)
}
