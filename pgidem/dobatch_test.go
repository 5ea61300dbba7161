package pgidem

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

const insertEffect = "INSERT INTO effects (key) VALUES ($1)"

// effectBatch is what effect is for DoTx: a batch that writes one effect.
func (b *bundle) effectBatch(batch *pgx.Batch) { batch.Queue(insertEffect, b.key.ID) }

func (b *bundle) doBatch(result string, opts ...*TxOpts) (Result[string], error) {
	return DoBatch(b.Context(), b.client, b.key, result, b.effectBatch, opts...)
}

// warmBatch makes every statement of a batch and of a replay known to the pool's connection.
func (b *bundle) warmBatch() {
	b.Helper()
	b.warm(b.client, b.pool)
	key := Key{Scope: "warm", ID: NewID()}
	for range 2 { // a replay, and then a fresh key: pgx prepares anew what was in a batch that failed
		b.must(DoBatch(b.Context(), b.client, key, "", b.effectBatch))
	}
	b.must(DoBatch(b.Context(), b.client, Key{Scope: "warm", ID: NewID()}, "", b.effectBatch))
	b.must(b.pool.Exec(b.Context(), "DELETE FROM effects"))
}

func TestCostOfDoBatch(t *testing.T) {
	for name, mode := range queryModes {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }))
			b.warmBatch()
			b.wantCost("a fresh key", 1, 1, func() error { return second(b.doBatch("first")) })
			replay := 3
			if mode == pgx.QueryExecModeCacheStatement {
				replay = 4 // pgx first deallocates what it had prepared for the batch that failed
			}
			b.wantCost("a replay that is not known to be one", replay, 0, func() error { return second(b.doBatch("second")) })
			b.wantCost("a known retry", 1, 0, func() error { return second(b.doBatch("third", &TxOpts{Retry: true})) })
			got, err := b.doBatch("fourth")
			b.wantResult(got, err, "first", true)
			b.wantEffects(1)
		})
	}
}

// review 14: whatever stands in the way of the one round trip, the ordinary decision table answers.
func TestReview14DuplicateLeavesTheFastPath(t *testing.T) {
	t.Run("Expired", func(t *testing.T) {
		b := setup(t)
		b.must(b.doBatch("old", &TxOpts{TTL: time.Microsecond}))
		got, err := b.doBatch("new")
		b.wantResult(got, err, "new", false)
		b.wantEffects(2)
	})
	t.Run("Failed", func(t *testing.T) {
		b := setup(t)
		_, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) {
			return "", Permanent(&Failure{Code: "declined"})
		})
		var failure *Failure
		if _, batchErr := b.doBatch("new"); !errors.As(err, &failure) || !errors.As(batchErr, &failure) || failure.Code != "declined" {
			b.Errorf("DoTx: %v, DoBatch: %v; want the failure twice", err, batchErr)
		}
		b.wantEffects(0)
	})
	t.Run("AnotherFingerprint", func(t *testing.T) {
		b := setup(t)
		b.must(b.doBatch("first", &TxOpts{Input: 1}))
		_, err := b.doBatch("second", &TxOpts{Input: 2})
		b.wantError(err, ErrKeyReused)
		b.wantEffects(1)
	})
	t.Run("AnotherKind", func(t *testing.T) {
		b := setup(t)
		b.must(b.pool.Exec(b.Context(), `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, finished_at, expires_at)
			VALUES ($1, $2, 'mark', 'succeeded', gen_random_uuid(), 1, clock_timestamp(), clock_timestamp() + interval '1 day')`, b.key.Scope, b.key.ID))
		_, err := b.doBatch("never")
		b.wantError(err, ErrKeyReused)
		b.wantEffects(0)
	})
}

// review 14: a batch does not commit beside an operation that holds the key.
func TestReview14BatchWaitsForTheHolder(t *testing.T) {
	b := setup(t)
	unlock := b.lockKey(b.key)
	_, err := b.doBatch("refused", &TxOpts{WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	b.wantEffects(0)
	waiting := async(b, func() (Result[string], error) { return b.doBatch("waited") })
	b.lockAwaited("the batch waits for the key's lock", 1)
	b.wantEffects(0)
	unlock()
	a := <-waiting
	b.wantResult(a.Result, a.err, "waited", false)
	b.wantEffects(1)
}

// review 14: only our row's violation is the duplicate; the caller's own one is the caller's.
func TestReview14OwnUniqueViolationIsTheCallers(t *testing.T) {
	for name, deferred := range map[string]string{"AtOnce": "", "AtCommit": "DEFERRABLE INITIALLY DEFERRED"} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.must(b.pool.Exec(b.Context(), "ALTER TABLE effects ADD UNIQUE (key) "+deferred))
			twice := func(batch *pgx.Batch) { b.effectBatch(batch); b.effectBatch(batch) }
			_, err := DoBatch(b.Context(), b.client, b.key, "", twice)
			var ours *Error
			if sqlState(err) != uniqueViolation || errors.As(err, &ours) {
				b.Errorf("got %v, want the caller's own unique violation", err)
			}
			b.wantState("")
			got, err := b.doBatch("free")
			b.wantResult(got, err, "free", false)
			b.wantEffects(1)
		})
	}
}

// A statement that must hit raises, and everything is rolled back.
func TestBatchStatementThatMustHit(t *testing.T) {
	b := setup(t)
	_, err := DoBatch(b.Context(), b.client, b.key, "", func(batch *pgx.Batch) {
		b.effectBatch(batch)
		batch.Queue("WITH hit AS (UPDATE effects SET key = key WHERE key = $1 RETURNING 1) SELECT 1 / count(*) FROM hit", "nobody")
	})
	if sqlState(err) != "22012" {
		b.Errorf("got %v, want division by zero", err)
	}
	b.wantEffects(0)
	b.wantState("")
}

// 40P01 and 40001 run the statements again.
func TestBatchIsRunAgain(t *testing.T) {
	b := setup(t)
	b.must(b.pool.Exec(b.Context(), `
		CREATE SEQUENCE runs;
		CREATE FUNCTION flaky() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('runs') < 3 THEN RAISE EXCEPTION 'try again' USING ERRCODE = 'serialization_failure'; END IF;
			RETURN NEW; END $$;
		CREATE TRIGGER flaky BEFORE INSERT ON effects FOR EACH ROW EXECUTE FUNCTION flaky()`))
	got, err := b.doBatch("third time")
	b.wantResult(got, err, "third time", false)
	b.wantEffects(1)
	if runs := one[int](b, b.pool, "SELECT last_value FROM runs"); runs != 3 {
		b.Errorf("the statements ran %d times, want 3", runs)
	}
}

func TestBatchThatCannotBeSent(t *testing.T) {
	nothing := func(*pgx.Batch) {}
	queue := func(sql string) func(*pgx.Batch) { return func(b *pgx.Batch) { b.Queue(sql) } }
	callback := func(b *pgx.Batch) { b.Queue("SELECT 1").QueryRow(func(pgx.Row) error { return nil }) }
	for name, c := range map[string]struct {
		client bool // whether there is one
		key    Key
		queue  func(*pgx.Batch)
		opts   []*TxOpts
		kind   error
	}{
		"NoClient":       {false, Key{"s", "i"}, nothing, nil, ErrConfig},
		"NoQueue":        {true, Key{"s", "i"}, nil, nil, ErrConfig},
		"TwoOptions":     {true, Key{"s", "i"}, nothing, []*TxOpts{nil, nil}, ErrConfig},
		"NegativeTTL":    {true, Key{"s", "i"}, nothing, []*TxOpts{{TTL: -1}}, ErrConfig},
		"NoScope":        {true, Key{"", "i"}, nothing, nil, ErrInvalidKey},
		"Callback":       {true, Key{"s", "i"}, callback, nil, ErrConfig},
		"BEGIN":          {true, Key{"s", "i"}, queue("begin isolation level serializable"), nil, ErrConfig},
		"START":          {true, Key{"s", "i"}, queue("START TRANSACTION"), nil, ErrConfig},
		"COMMIT":         {true, Key{"s", "i"}, queue("\n commit;"), nil, ErrConfig},
		"END":            {true, Key{"s", "i"}, queue("End"), nil, ErrConfig},
		"ROLLBACK":       {true, Key{"s", "i"}, queue("ROLLBACK AND CHAIN"), nil, ErrConfig},
		"ABORT":          {true, Key{"s", "i"}, queue("abort"), nil, ErrConfig},
		"PREPARE":        {true, Key{"s", "i"}, queue("PREPARE TRANSACTION 'x'"), nil, ErrConfig},
		"ResultTooLarge": {true, Key{"s", "i"}, nothing, nil, ErrResult},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(func(c *Config) { c.MaxResultBytes = 100 }))
			client, result := b.client, ""
			if !c.client {
				client = nil
			}
			if name == "ResultTooLarge" {
				result = strings.Repeat("x", 100)
			}
			_, err := DoBatch(b.Context(), client, c.key, result, c.queue, c.opts...)
			if !errors.Is(err, c.kind) {
				b.Errorf("got %v, want %v", err, c.kind)
			}
			b.key = c.key
			b.wantState("")
			if c.kind != ErrResult && b.faults.Counts().RoundTrips > 0 {
				b.Errorf("%d round trips, nothing should have been sent", b.faults.Counts().RoundTrips)
			}
		})
	}
}

// What is wrong with a statement is said as it is, in every query mode, though modes find it at different times; and a
// key that has its answer gives it.
func TestBatchWithAWrongStatement(t *testing.T) {
	for name, wrong := range map[string]func(*pgx.Batch){
		"Syntax":        func(b *pgx.Batch) { b.Queue("SELEC 1") },
		"NoTable":       func(b *pgx.Batch) { b.Queue("SELECT FROM nowhere") },
		"Parameters":    func(b *pgx.Batch) { b.Queue("SELECT $1::int") },
		"Argument":      func(b *pgx.Batch) { b.Queue("SELECT $1::int", make(chan int)) },
		"NamedArgument": func(b *pgx.Batch) { b.Queue("SELECT @a::int", pgx.StrictNamedArgs{"b": 1}) },
	} {
		for mode, queryMode := range queryModes {
			t.Run(name+"/"+mode, func(t *testing.T) {
				b := setup(t, withPool(inMode(queryMode)))
				wrongBatch := func() (Result[string], error) {
					return DoBatch(b.Context(), b.client, b.key, "never", func(batch *pgx.Batch) {
						b.effectBatch(batch)
						wrong(batch)
					})
				}
				_, err := wrongBatch()
				var ours *Error
				if err == nil || errors.As(err, &ours) {
					t.Errorf("got %v, want the statement's own error", err)
				}
				b.wantEffects(0)
				b.wantState("")
				b.must(b.doBatch("done"))
				got, err := wrongBatch()
				b.wantResult(got, err, "done", true)
			})
		}
	}
}

// A row that is not committed yet is waited for within the wait bound, also where it is one that takes no lock, or is about
// to be replaced.
func TestSaveWaitsWithinItsBound(t *testing.T) {
	calls := map[string]func(*bundle, *TxOpts) (Result[string], error){
		"DoTx": func(b *bundle, o *TxOpts) (Result[string], error) {
			return DoTx(b.Context(), b.client, b.key, b.effect("done"), o)
		},
		"DoBatch": func(b *bundle, o *TxOpts) (Result[string], error) { return b.doBatch("done", o) },
	}
	rows := map[string]func(*bundle, pgx.Tx) error{
		"Mark": func(b *bundle, tx pgx.Tx) error {
			return second(MarkTx(b.Context(), b.client, tx, b.key.Scope, []string{b.key.ID}))
		},
		"ExpiredRow": func(b *bundle, tx pgx.Tx) error {
			b.must(DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) { return "old", nil }, &TxOpts{TTL: time.Microsecond}))
			return second(tx.Exec(b.Context(), "SELECT FROM idempotency_keys WHERE id = $1 FOR UPDATE", b.key.ID))
		},
	}
	for what, row := range rows {
		for name, call := range calls {
			t.Run(what+"/"+name, func(t *testing.T) {
				b := setup(t, withConfig(func(c *Config) { c.FinishBound = 5 * time.Second })) // what bounds it otherwise
				holder := b.beginOn(b.observe())
				b.must(nil, row(b, holder))
				_, err := call(b, &TxOpts{WaitBound: NoWait})
				b.wantError(err, ErrInProgress)
				b.wantEffects(0)
				waiting := async(b, func() (Result[string], error) { return call(b, nil) })
				b.until("the row is waited for", `SELECT count(*) = 1 FROM pg_stat_activity
					WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'transactionid'`)
				b.must(nil, holder.Rollback(b.Context()))
				a := <-waiting
				b.wantResult(a.Result, a.err, "done", false)
				b.wantEffects(1)
			})
		}
	}
}

// What the first words of a statement do not show, the last statement of the batch does.
func TestReview27BatchEndedByHand(t *testing.T) {
	for _, sql := range []string{"/* */ COMMIT AND CHAIN", "/* */ COMMIT", "/* */ ROLLBACK", "RESET ALL"} {
		t.Run(sql, func(t *testing.T) {
			b := setup(t)
			_, err := DoBatch(b.Context(), b.client, b.key, "", func(batch *pgx.Batch) {
				batch.Queue(sql)
				b.effectBatch(batch)
			})
			b.wantError(err, ErrTxEnded)
			b.wantEffects(0)
			if sql == "RESET ALL" || sql == "/* */ ROLLBACK" {
				b.wantState("")
			} else {
				b.wantState(stateSucceeded) // as the error says
			}
		})
	}
}

func TestReview28SynchronousCommitOfABatch(t *testing.T) {
	b := setup(t, withSetting("synchronous_commit", "local"))
	b.must(b.pool.Exec(b.Context(), `
		CREATE TABLE seen (value text);
		CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
		CREATE CONSTRAINT TRIGGER see AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW EXECUTE FUNCTION see()`))
	b.must(DoBatch(b.Context(), b.client, b.key, "", func(batch *pgx.Batch) {
		b.effectBatch(batch)
		batch.Queue("SET LOCAL synchronous_commit = off")
	}))
	if got := one[string](b, b.pool, "SELECT value FROM seen"); got != "on" {
		b.Errorf("synchronous_commit was %q at COMMIT, want on", got)
	}
}

// Callers in one process send one batch.
func TestBatchesCoalesce(t *testing.T) {
	b := setup(t)
	b.warmBatch()
	hold := b.faults.Hold(atCommit(faultconn.Before))
	b.faults.Reset()
	first := async(b, func() (Result[string], error) { return b.doBatch("first") })
	b.reached(hold)
	var others []<-chan answer[string]
	for range 32 {
		others = append(others, async(b, func() (Result[string], error) { return b.doBatch("other") }))
	}
	b.joined(32)
	hold.Release()
	a := <-first
	b.wantResult(a.Result, a.err, "first", false)
	for _, other := range others {
		a := <-other
		b.wantResult(a.Result, a.err, "first", true)
	}
	b.wantEffects(1)
	if got := b.faults.Counts().RoundTrips; got != 1 {
		b.Errorf("33 callers made %d round trips, want 1", got)
	}
}
