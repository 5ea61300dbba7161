package pgidem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const scope = "queue/orders"

// mark is MarkTx in the tests' scope.
func (b *bundle) mark(tx pgx.Tx, ids []string, opts ...*MarkOpts) ([]string, error) {
	return MarkTx(b.Context(), b.client, tx, scope, ids, opts...)
}

func (b *bundle) wantFresh(got []string, err error, want ...string) {
	b.Helper()
	if err != nil || !slices.Equal(got, want) {
		b.Errorf("fresh are %q, %v; want %q", got, err, want)
	}
}

// wantMarks checks how many marks are committed.
func (b *bundle) wantMarks(want int) {
	b.Helper()
	if got := one[int](b, b.observe(), "SELECT count(*) FROM idempotency_keys WHERE kind = 'mark'"); got != want {
		b.Errorf("%d marks are committed, want %d", got, want)
	}
}

// The whole life in every query mode: which are new, each once and in order; nothing before COMMIT; none are new after it.
func TestMarkTx(t *testing.T) {
	for name, mode := range queryModes {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }))
			tx := b.begin()
			fresh, err := b.mark(tx, []string{"c", "a", "c", "b", "a", `"{},\`})
			b.wantFresh(fresh, err, "c", "a", "b", `"{},\`)
			fresh, err = b.mark(tx, []string{"d", "a"})
			b.wantFresh(fresh, err, "d")
			fresh, err = b.mark(tx, nil)
			b.wantFresh(fresh, err)
			b.wantMarks(0)
			b.wantAlive(tx)
			b.must(nil, tx.Commit(b.Context()))
			b.wantMarks(5)

			tx = b.begin()
			fresh, err = b.mark(tx, []string{"b", "a"})
			b.wantFresh(fresh, err)
			fresh, err = MarkTx(b.Context(), b.client, tx, "another scope", []string{"a"})
			b.wantFresh(fresh, err, "a")
			b.must(nil, tx.Rollback(b.Context()))
			b.wantMarks(5)
		})
	}
}

// Counted at the wire: one round trip, whether the IDs are new or seen, few or thousands; none for none.
func TestCostOfMarkTx(t *testing.T) {
	for name, mode := range queryModes {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }))
			tx := b.begin()
			b.must(b.mark(tx, []string{"warm"}))
			ids := manyIDs(2_000)
			call := func() error { return second(b.mark(tx, ids)) }
			b.wantCost("new IDs", 1, 0, call)
			b.wantCost("seen IDs", 1, 0, call)
			b.must(tx.Exec(b.Context(), "UPDATE idempotency_keys SET created_at = 'yesterday', finished_at = 'yesterday', expires_at = 'yesterday'"))
			b.wantCost("expired marks", 1, 0, call)
			b.wantCost("no IDs", 0, 0, func() error { return second(b.mark(tx, nil)) })
			if n := b.pool.Stat().TotalConns(); n != 1 {
				b.Errorf("%d connections were used, want the caller's only", n)
			}
			b.must(nil, tx.Rollback(b.Context()))
		})
	}
}

func manyIDs(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("message-%d", (i*7919)%n) // each once, in no order
	}
	return ids
}

// Thousands of IDs need no lock each: the server's table of locks would be full.
func TestMarkTxTenThousand(t *testing.T) {
	b := setup(t)
	ids := manyIDs(10_000)
	tx := b.begin()
	fresh, err := b.mark(tx, ids)
	b.wantFresh(fresh, err, ids...)
	var locks int
	b.must(nil, tx.QueryRow(b.Context(), "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'").Scan(&locks))
	if locks != 0 {
		b.Errorf("the transaction holds %d advisory locks, want none", locks)
	}
	b.must(nil, tx.Commit(b.Context()))
	b.wantMarks(len(ids))
	tx = b.begin()
	fresh, err = b.mark(tx, append([]string{"new"}, ids...))
	b.wantFresh(fresh, err, "new")
}

// review 11, 13: expired rows of every kind are renewed, with their steps gone; an unexpired row of another kind is an error
// about its key, and nothing is marked.
func TestReview11MarkTxExpiredAndOtherKinds(t *testing.T) {
	b := setup(t)
	expired := func(id, kind string) {
		b.must(b.pool.Exec(b.Context(), `INSERT INTO idempotency_keys
			(scope, id, kind, state, claim, attempt, life, result, created_at, finished_at, expires_at)
			VALUES ($1, $2, $3::text, 'succeeded', gen_random_uuid(), 1, CASE $3::text WHEN 'steps' THEN gen_random_uuid() END,
				CASE WHEN $3::text <> 'mark' THEN '""'::bytea END, 'yesterday', 'yesterday', clock_timestamp())`, scope, id, kind))
	}
	expired("m", kindMark)
	expired("t", kindTx)
	expired("s", "steps")
	b.must(b.pool.Exec(b.Context(), `INSERT INTO idempotency_steps (scope, id, name, ordinal, claim, result, recorded_at)
		VALUES ($1, 's', 'old', 1, gen_random_uuid(), '1', clock_timestamp())`, scope))
	tx := b.begin()
	fresh, err := b.mark(tx, []string{"s", "m", "new", "t"})
	b.wantFresh(fresh, err, "s", "m", "new", "t")
	fresh, err = b.mark(tx, []string{"s", "m", "new", "t"})
	b.wantFresh(fresh, err)
	b.must(nil, tx.Commit(b.Context()))
	b.wantMarks(4)

	for state, values := range map[string]string{
		"released":  "'steps', 'released', NULL, gen_random_uuid(), NULL, NULL, NULL",
		"running":   "'steps', 'running', 4711, gen_random_uuid(), NULL, NULL, NULL",
		"succeeded": "'tx', 'succeeded', NULL, NULL, '\"\"', clock_timestamp(), clock_timestamp() + interval '1 hour'",
	} {
		b.must(b.pool.Exec(b.Context(), `INSERT INTO idempotency_keys
			(scope, id, kind, state, owner, life, result, finished_at, expires_at, claim, attempt)
			VALUES ($1, $2, `+values+", gen_random_uuid(), 1)", scope, state))
		tx := b.begin()
		_, err := b.mark(tx, []string{"not marked", state})
		var e *Error
		if !errors.Is(err, ErrKeyReused) || !errors.As(err, &e) || e.Key != (Key{scope, state}) {
			b.Errorf("%s: got %v, want %v about the ID", state, err, ErrKeyReused)
		}
		b.wantAlive(tx)
		b.must(nil, tx.Commit(b.Context()))
	}
	b.wantMarks(4)
}

// review 13: an ID whose TTL is over is new, also within the transaction.
func TestReview13MarkTxTTL(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.TTL = 2 * time.Hour }))
	tx := b.begin()
	for range 3 {
		fresh, err := b.mark(tx, []string{"brief"}, &MarkOpts{TTL: time.Microsecond})
		b.wantFresh(fresh, err, "brief")
	}
	b.must(b.mark(tx, []string{"default"}))
	b.must(nil, tx.Commit(b.Context()))
	record, err := Lookup[struct{}](b.Context(), b.client, Key{scope, "default"})
	if err != nil || record.Kind != kindMark || record.State != stateSucceeded || record.Expires.Sub(record.Finished) != 2*time.Hour {
		b.Errorf("got %+v, %v", record, err)
	}
}

// A mark whose transaction has not ended is waited for, within the wait bound; what becomes of it decides.
func TestMarkTxWaitsForAnother(t *testing.T) {
	for name, c := range map[string]struct {
		end   func(pgx.Tx, *bundle) error
		fresh []string
	}{
		"Commit":   {func(tx pgx.Tx, b *bundle) error { return tx.Commit(b.Context()) }, []string{"mine"}},
		"Rollback": {func(tx pgx.Tx, b *bundle) error { return tx.Rollback(b.Context()) }, []string{"mine", "theirs"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			first, later := b.begin(), b.begin()
			b.must(b.mark(first, []string{"theirs"}))
			_, err := b.mark(later, []string{"mine", "theirs"}, &MarkOpts{WaitBound: NoWait})
			b.key = Key{Scope: scope}
			b.wantError(err, ErrInProgress)
			b.wantAlive(later)
			waiting := async(b, func() (Result[[]string], error) {
				fresh, err := b.mark(later, []string{"mine", "theirs"})
				return Result[[]string]{Value: fresh}, err
			})
			b.until("the second MarkTx waits", "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'")
			b.must(nil, c.end(first, b))
			a := <-waiting
			b.wantFresh(a.Value, a.err, c.fresh...)
			b.wantAlive(later)
			b.must(nil, later.Commit(b.Context()))
		})
	}
}

// review 11: an operation whose COMMIT MarkTx has waited for is not passed over as if it were a mark.
func TestReview11MarkTxSeesWhatItWaitedFor(t *testing.T) {
	b := setup(t)
	first, later := b.begin(), b.begin()
	b.key = Key{scope, "theirs"}
	b.must(InTx(b.Context(), b.client, first, b.key, b.effectIn(first, "")))
	waiting := async(b, func() (Result[[]string], error) {
		_, err := b.mark(later, []string{"theirs"})
		return Result[[]string]{}, err
	})
	b.until("MarkTx waits", "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'")
	b.must(nil, first.Commit(b.Context()))
	b.wantError((<-waiting).err, ErrKeyReused)
	b.wantAlive(later)
}

// An operation that runs has no row: MarkTx wins, and the operation is told so when it is to be saved, after its rollback.
func TestMarkTxBesideARunningOperation(t *testing.T) {
	b := setup(t)
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		marking := b.begin()
		fresh, err := MarkTx(b.Context(), b.client, marking, b.key.Scope, []string{b.key.ID})
		b.wantFresh(fresh, err, b.key.ID)
		b.must(nil, marking.Commit(b.Context()))
		return b.effect("")(ctx, tx)
	})
	b.wantError(err, ErrKeyReused)
	b.wantEffects(0)
	b.wantMarks(1)
}

// An ID whose row was there at the INSERT, and has expired or is gone when that has waited for another ID, is new.
func TestMarkTxFindsARowGone(t *testing.T) {
	for name, remove := range map[string]string{
		"Deleted": "DELETE FROM idempotency_keys WHERE id = 'a'",
		"Expired": "UPDATE idempotency_keys SET created_at = 'yesterday', finished_at = 'yesterday', expires_at = clock_timestamp() WHERE id = 'a'",
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.must(DoTx(b.Context(), b.client, Key{scope, "a"}, b.effect("")))
			holder, later := b.begin(), b.begin()
			b.must(b.mark(holder, []string{"b"}))
			waiting := async(b, func() (Result[[]string], error) {
				fresh, err := b.mark(later, []string{"a", "b"})
				return Result[[]string]{Value: fresh}, err
			})
			b.rowsAwaited(1)
			b.must(b.pool.Exec(b.Context(), remove))
			b.must(nil, holder.Commit(b.Context()))
			got := <-waiting
			b.wantFresh(got.Value, got.err, "a")
			b.must(nil, later.Commit(b.Context()))
			b.wantMarks(2)
		})
	}
}

// A mark that expires while others are made is made anew: the check behind the INSERT sees it, and goes round.
func TestMarkTxExpiresMeanwhile(t *testing.T) {
	b := setup(t)
	b.must(b.pool.Exec(b.Context(), `CREATE SEQUENCE rounds; CREATE FUNCTION expire() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
		PERFORM nextval('rounds');
		UPDATE idempotency_keys SET created_at = 'yesterday', finished_at = 'yesterday', expires_at = clock_timestamp() WHERE id = 'old' AND finished_at <> 'yesterday';
		RETURN NEW; END $$;
		CREATE TRIGGER expire AFTER INSERT ON idempotency_keys FOR EACH ROW WHEN (NEW.id = 'new') EXECUTE FUNCTION expire()`))
	tx := b.begin()
	b.must(b.mark(tx, []string{"old"}))
	b.must(nil, tx.Commit(b.Context()))
	tx = b.begin()
	_, err := b.mark(tx, []string{"old", "new"}) // each round is taken back, and expires the mark again
	b.key = Key{Scope: scope}
	b.wantError(err, ErrUnavailable)
	b.wantAlive(tx)
	if rounds := one[int](b, b.observe(), "SELECT last_value FROM rounds"); rounds != maxRounds {
		b.Errorf("there were %d rounds, want %d", rounds, maxRounds)
	}
	b.must(tx.Exec(b.Context(), "DROP TRIGGER expire ON idempotency_keys"))
	fresh, err := b.mark(tx, []string{"old", "new"})
	b.wantFresh(fresh, err, "new")
	b.must(nil, tx.Commit(b.Context()))
}
