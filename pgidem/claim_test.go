package pgidem

import (
	"context"
	"errors"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// A second process that waits for the lock sees what the first one committed, whatever the server's defaults are.
// With lock and read in one statement, or at a higher level than READ COMMITTED, it would see the past and run again.
func TestWaiterSeesWhatItWaitedFor(t *testing.T) {
	for name, settings := range map[string][]option{
		"Default":        nil,
		"RepeatableRead": {withSetting("default_transaction_isolation", "repeatable read")},
		"Serializable":   {withSetting("default_transaction_isolation", "serializable")},
		"Deferrable":     {withSetting("default_transaction_deferrable", "on")},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, settings...)
			other, _, _ := b.newClient(settings...)
			var second <-chan answer[string]
			got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				second = async(b, func() (Result[string], error) {
					return DoTx(b.Context(), other, b.key, func(ctx context.Context, tx Tx) (string, error) {
						b.Error("the second ran: it did not see what it had waited for") // the row would still undo it
						return b.effect("second")(ctx, tx)
					})
				})
				b.lockAwaited("the second waits", 1)
				return b.effect("first")(ctx, tx)
			})
			b.wantResult(got, err, "first", false)
			a := <-second
			b.wantResult(a.Result, a.err, "first", true)
			b.wantEffects(1)
		})
	}
}

// The waiter takes over where the first fails, and nothing of the first is left.
func TestWaiterTakesOver(t *testing.T) {
	b := setup(t)
	other, _, _ := b.newClient()
	boom := errors.New("boom")
	var second <-chan answer[string]
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		second = async(b, func() (Result[string], error) { return DoTx(b.Context(), other, b.key, b.effect("second")) })
		b.lockAwaited("the second waits", 1)
		_, err := b.effect("")(ctx, tx)
		return "", errors.Join(err, boom)
	})
	if !errors.Is(err, boom) {
		b.Errorf("got %v, want fn's own error", err)
	}
	a := <-second
	b.wantResult(a.Result, a.err, "second", false)
	b.wantEffects(1)
}

// review 20: the wait bound of the lock is not left to the caller's statements, and a statement_timeout that strikes
// while waiting is a wait that ended.
func TestReview20LockTimeoutIsTheCallersAgain(t *testing.T) {
	b := setup(t, withSetting("lock_timeout", "1234ms"))
	unlock := b.lockKey(b.key)
	got := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
			var timeout string
			err := tx.QueryRow(ctx, "SHOW lock_timeout").Scan(&timeout)
			return timeout, err
		})
	})
	b.lockAwaited("the call waits for the lock", 1)
	unlock()
	a := <-got
	b.wantResult(a.Result, a.err, "1234ms", false)
}

func TestReview20StatementTimeoutWhileWaiting(t *testing.T) {
	b := setup(t, withSetting("statement_timeout", "1s"), withConfig(func(c *Config) { c.WaitBound = 2500 * time.Millisecond }))
	unlock := b.lockKey(b.key)
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
	b.wantError(err, ErrInProgress)
	unlock()
	b.wantEffects(0)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("now"))
	b.wantResult(got, err, "now", false)
}

func TestWaitBound(t *testing.T) {
	for name, opts := range map[string]*TxOpts{
		"NoWait":     {WaitBound: NoWait},
		"Short":      {WaitBound: 50 * time.Millisecond},
		"KnownRetry": {WaitBound: 50 * time.Millisecond, Retry: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.lockKey(b.key)
			_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), opts)
			b.wantError(err, ErrInProgress)
			var e *Error
			if !errors.As(err, &e) || e.RetryAfter <= 0 {
				b.Errorf("%v has no hint when to retry", err)
			}
			b.wantEffects(0)
		})
	}
}

// A deadline of the caller bounds the wait in the server, a moment before it comes, so that it does not cost the connection.
func TestDeadlineWhileWaiting(t *testing.T) {
	b := setup(t, withConfig(patience)) // so that nothing else ends the wait
	b.lockKey(b.key)
	b.warm(b.client, b.pool)
	caller, end := context.WithCancelCause(b.Context())
	defer end(nil)
	ctx := unhurried{caller, time.Now().Add(2 * time.Second)}
	if ms, err := strconv.Atoi(lockTimeoutSetting(ctx, time.Hour)); err != nil || ms > 1980 {
		b.Errorf("the server may wait for %d of 2000 ms (%v), which leaves too little time for its answer", ms, err)
	}
	b.faults.Reset()
	claims := b.pool.Stat().AcquireCount()
	waitOver := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Type: faultconn.ErrorResponse, Tag: lockNotAvailable})
	call := async(b, func() (Result[string], error) { return DoTx(ctx, b.client, b.key, b.effect("never")) })
	b.reached(waitOver)
	<-time.After(time.Until(ctx.deadline)) // no time is left for another wait, however early the answer came
	waitOver.Release()
	for late := time.Now().Add(20 * time.Second); b.pool.Stat().AcquiredConns() > 0; runtime.Gosched() {
		if time.Now().After(late) {
			b.Fatal("the connection was not given back within 20 s of the answer")
		}
	}
	b.wantEffects(0)
	end(context.DeadlineExceeded)
	if a := <-call; !errors.Is(a.err, context.DeadlineExceeded) {
		b.Errorf("got %v, want the deadline", a.err)
	}
	if n := b.pool.Stat().AcquireCount() - claims; n != 2 {
		b.Errorf("the call claimed %d times, want twice: a try, and a wait as long as the deadline allows", n)
	}
	if got := b.faults.Counts(); got.Cancels != 0 || got.Connections != 0 {
		b.Errorf("the wait cost %d cancel requests and %d connections, want none", got.Cancels, got.Connections)
	}
}

// unhurried is a caller's context that has a deadline, but ends no earlier than the test says: where a machine is slow, the
// server's answer may come behind it.
type unhurried struct {
	context.Context
	deadline time.Time
}

func (c unhurried) Deadline() (time.Time, bool) { return c.deadline, true }

// review 17: a client that vanished in the middle of a statement does not keep the key's lock until the statement ends,
// where the pool was configured by PoolConfig. Its connection is cut without the courtesy of a cancel request.
func TestReview17VanishedClientFreesTheKey(t *testing.T) {
	b := setup(t, func(b *bundle, _ *Config, p *pgxpool.Config) {
		advised, err := PoolConfig(b.db.URL())
		b.must(advised, err)
		p.ConnConfig.RuntimeParams = advised.ConnConfig.RuntimeParams
	}, direct("PoolConfig is for direct connections"))
	other, _, _ := b.newClient()
	b.warm(b.client, b.pool)
	b.faults.RefuseCancel(true)
	b.faults.Cut(faultconn.Point{SQL: "pg_sleep", When: faultconn.After})
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		return "", second(tx.Exec(ctx, "SELECT pg_sleep(300)"))
	})
	if err == nil {
		b.Error("the connection was not lost")
	}
	got, err := DoTx(b.Context(), other, b.key, b.effect("next"))
	b.wantResult(got, err, "next", false)
}

// A cancelled statement is told as it is, and nothing is run again: statement_timeout in fn, or a cancellation that
// strikes while COMMIT runs a deferred trigger (which statement_timeout does not bound).
func TestCancelledStatement(t *testing.T) {
	for name, sql := range map[string]string{
		"TimeoutInFn": "DO $$ BEGIN SET LOCAL statement_timeout = '300ms'; END $$; SELECT pg_sleep(60)",
		"AtCommit": `CREATE FUNCTION cancelled() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN PERFORM pg_cancel_backend(pg_backend_pid()); PERFORM pg_sleep(60); RETURN NULL; END $$;
			CREATE CONSTRAINT TRIGGER cancelled AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
				FOR EACH ROW EXECUTE FUNCTION cancelled()`,
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.warm(b.client, b.pool)
			runs := 0
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				runs++
				if _, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll(); err != nil {
					return "", err
				}
				return b.effect("done")(ctx, tx)
			})
			if sqlState(err) != queryCanceled || runs != 1 {
				b.Errorf("%d runs and %v, want one run and the server's 57014", runs, err)
			}
			b.wantEffects(0)
			b.wantState("")
		})
	}
}

// review 24: a lock that was refused proves nothing; a replayer of another process may hold it.
func TestReview24RefusedLockReadsAnyway(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("saved")))
	b.lockKey(b.key)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{WaitBound: NoWait})
	b.wantResult(got, err, "saved", true)
	b.wantEffects(1)
}

// review 28: READ WRITE is pinned against the defaults of the role; a read-only session is not.
func TestReview28AccessModeIsPinned(t *testing.T) {
	b := setup(t)
	b.must(b.pool.Exec(b.Context(), "SET default_transaction_read_only = on")) // the pool's only connection so far
	b.client.probed.done.Store(true)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("written"))
	b.wantResult(got, err, "written", false)
}

// review 28: synchronous_commit is raised by the last statement before COMMIT, whatever fn did to it. A deferred
// trigger runs inside COMMIT and sees the value that counts.
func TestReview28SynchronousCommitIsRaised(t *testing.T) {
	for name, lower := range map[string]func(context.Context, Tx) error{
		"BySetting": func(context.Context, Tx) error { return nil },
		"ByFn": func(ctx context.Context, tx Tx) error {
			_, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = local")
			return err
		},
		"ByLast": func(_ context.Context, tx Tx) error { return tx.Last("SET LOCAL synchronous_commit = off") },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withSetting("synchronous_commit", "off"))
			b.must(b.pool.Exec(b.Context(), `
				CREATE TABLE seen (value text);
				CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
					$$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
				CREATE CONSTRAINT TRIGGER see AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
					FOR EACH ROW EXECUTE FUNCTION see()`))
			b.must(DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				return "", errors.Join(lower(ctx, tx), second(b.effect("")(ctx, tx)))
			}))
			if got := one[string](b, b.pool, "SELECT value FROM seen"); got != "on" {
				b.Errorf("synchronous_commit was %q at COMMIT, want on", got)
			}
		})
	}
}

// review 29: when a call has returned, its connection is idle again and its lock free.
func TestReview29NothingIsLeftOpen(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	for range 3 {
		b.must(DoTx(b.Context(), b.client, b.key, b.effect("done")))
		_, err := DoTx(b.Context(), b.client, Key{"s", "fails"}, func(context.Context, Tx) (string, error) { return "", errors.New("no") })
		if err == nil {
			b.Fatal("the error was lost")
		}
		if n := one[int](b, b.observe(), `SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE a.datname = current_database() AND l.locktype = 'advisory'`); n != 0 {
			b.Errorf("%d advisory locks are left", n)
		}
	}
	if total := b.pool.Stat().NewConnsCount(); total != 1 {
		b.Errorf("%d connections were opened, the first one should have served all calls", total)
	}
}

// review 30: a pool of one connection works.
func TestReview30PoolOfOne(t *testing.T) {
	b := setup(t, withPoolOfOne())
	for _, replayed := range []bool{false, true} {
		got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
		b.wantResult(got, err, "done", replayed)
	}
	b.must(nil, b.client.Forget(b.Context(), b.key))
	b.must(b.client.Probe(b.Context()))
}

// A nested call that does not wait for its key may still wait for a connection.
func TestNestedNoWait(t *testing.T) {
	b := setup(t)
	got, err := DoTx(b.Context(), b.client, Key{"s", "outer"}, func(ctx context.Context, _ Tx) (string, error) {
		inner, err := DoTx(ctx, b.client, b.key, b.effect("inner"), &TxOpts{WaitBound: NoWait})
		return inner.Value, err
	})
	b.wantResult(got, err, "inner", false)
}

// Neither can one that only reads.
func TestNestedLookupOnAPoolOfOne(t *testing.T) {
	b := setup(t, withPoolOfOne(), withConfig(func(c *Config) { c.LockTimeout = 100 * time.Millisecond }))
	_, err := DoTx(b.Context(), b.client, Key{"s", "outer"}, func(ctx context.Context, _ Tx) (string, error) {
		record, err := Lookup[string](ctx, b.client, b.key)
		return record.Value, err
	})
	b.wantError(err, ErrUnavailable)
}

// A nested call cannot hang on a pool that is used up: it would wait for its own caller.
func TestNestedCallOnAPoolOfOne(t *testing.T) {
	b := setup(t, withPoolOfOne(), withConfig(func(c *Config) { c.LockTimeout, c.WaitBound = 100*time.Millisecond, 100*time.Millisecond }))
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, _ Tx) (string, error) {
		inner, err := DoTx(ctx, b.client, Key{"s", "inner"}, b.effect("inner"))
		return inner.Value, err
	})
	if !errors.Is(err, ErrUnavailable) {
		b.Errorf("got %v, want %v", err, ErrUnavailable)
	}
	b.wantEffects(0)
}

// A pooled connection that died meanwhile costs the caller nothing: the claim has written nothing and is sent again.
func TestDeadPooledConnection(t *testing.T) {
	b := setup(t)
	b.warm(b.client, b.pool)
	b.must(b.observe().Exec(b.Context(), `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
		WHERE datname = current_database() AND pid <> pg_backend_pid()`))
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantResult(got, err, "done", false)
	b.wantEffects(1)
}

// 40001 and 40P01 run fn again, a bounded number of times; other errors do not.
func TestReruns(t *testing.T) {
	for _, c := range []struct {
		code string
		want int
	}{{"40001", 1 + DefaultReruns}, {"40P01", 1 + DefaultReruns}, {"40003", 1}, {"23505", 1}, {"P0001", 1}} {
		t.Run(c.code, func(t *testing.T) {
			b := setup(t)
			runs := 0
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				runs++
				_, err := tx.Exec(ctx, "DO $$ BEGIN RAISE EXCEPTION 'again' USING ERRCODE = '"+c.code+"'; END $$")
				return "", err
			})
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || pg.Code != c.code || runs != c.want {
				b.Errorf("%d runs and %v, want %d and the server's %s", runs, err, c.want, c.code)
			}
		})
	}
}

// A deferred constraint of the caller fails at COMMIT: a definite abort, told as it is, and not run again.
func TestDeferredErrorAtCommit(t *testing.T) {
	for _, code := range []string{"23514", "P0001", "AB123"} {
		t.Run(code, func(t *testing.T) {
			b := setup(t)
			b.must(b.pool.Exec(b.Context(), `
				CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
					$$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '`+code+`'; END $$;
				CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
					FOR EACH ROW EXECUTE FUNCTION refuse()`))
			runs := 0
			_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				runs++
				return b.effect("")(ctx, tx)
			})
			if sqlState(err) != code || runs != 1 {
				b.Errorf("%d runs and %v, want one run and the server's %s", runs, err, code)
			}
			b.wantEffects(0)
			b.wantState("")
		})
	}
}

func withPoolOfOne() option {
	return func(_ *bundle, _ *Config, p *pgxpool.Config) { p.MaxConns = 1 }
}

func second[T any](_ T, err error) error { return err }
