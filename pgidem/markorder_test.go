package pgidem

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// review 23: batches that overlap in opposite orders, with duplicates, never deadlock: each inserts and deletes sorted.
func TestReview23MarkTxBatchesDoNotDeadlock(t *testing.T) {
	for name, expired := range map[string]bool{"New": false, "Expired": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			ids := manyIDs(400)
			if expired {
				tx := b.begin()
				b.must(b.mark(tx, ids, &MarkOpts{TTL: time.Microsecond}))
				b.must(nil, tx.Commit(b.Context()))
			}
			const callers = 6
			var all sync.WaitGroup
			fresh := make([][]string, callers)
			for n := range callers {
				mine := append(slices.Clone(ids[n*17:]), ids[:n*17]...)
				if n%2 == 1 {
					slices.Reverse(mine)
				}
				tx := b.begin()
				all.Go(func() {
					var err error
					if fresh[n], err = b.mark(tx, append(mine, mine[:20]...)); err != nil {
						b.Error(err)
					}
					if err := tx.Commit(b.Context()); err != nil {
						b.Error(err)
					}
				})
			}
			all.Wait()
			got := slices.Sorted(slices.Values(slices.Concat(fresh...)))
			if !slices.Equal(got, slices.Sorted(slices.Values(ids))) {
				b.Errorf("%d IDs were fresh to somebody, want each of %d once", len(got), len(ids))
			}
		})
	}
}

// review 23: the order is the statement's, not chance: a batch that waits for its smallest ID has marked nothing else yet.
func TestReview23MarkTxMarksInOrder(t *testing.T) {
	b := setup(t)
	first, later := b.begin(), b.begin()
	b.must(b.mark(first, []string{"a"}))
	waiting := async(b, func() (Result[[]string], error) {
		fresh, err := b.mark(later, append(manyIDs(50), "a"))
		return Result[[]string]{Value: fresh}, err
	})
	b.until("the second MarkTx waits", "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'")
	fresh, err := b.mark(first, manyIDs(50), &MarkOpts{WaitBound: NoWait})
	b.wantFresh(fresh, err, manyIDs(50)...)
	b.must(nil, first.Commit(b.Context()))
	a := <-waiting
	b.wantFresh(a.Value, a.err)
}

// review 23: the same where expired rows are deleted: a batch that waits for its smallest ID has locked no other row.
func TestReview23MarkTxDeletesInOrder(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	for _, id := range []string{"c", "b", "a"} { // in the table, the smallest comes last
		b.must(b.mark(tx, []string{id}, &MarkOpts{TTL: time.Microsecond}))
	}
	b.must(nil, tx.Commit(b.Context()))
	holder, later := b.begin(), b.begin()
	b.must(holder.Exec(b.Context(), "SELECT FROM idempotency_keys WHERE id = 'a' FOR UPDATE"))
	b.must(later.Exec(b.Context(), "SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off"))
	waiting := async(b, func() (Result[[]string], error) {
		fresh, err := b.mark(later, []string{"a", "b", "c"})
		return Result[[]string]{Value: fresh}, err
	})
	b.until("MarkTx waits", "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'")
	b.must(holder.Exec(b.Context(), "SELECT FROM idempotency_keys FOR UPDATE NOWAIT"))
	b.must(nil, holder.Rollback(b.Context()))
	a := <-waiting
	b.wantFresh(a.Value, a.err, "a", "b", "c")
}

// review 23: a mark that expires between two batches makes them wait for each other in spite of their order. The server ends one
// wait, and that call goes on by itself.
func TestReview23MarkTxSurvivesADeadlock(t *testing.T) {
	b := setup(t)
	tx := b.begin()
	b.must(b.mark(tx, []string{"z"}))
	b.must(nil, tx.Commit(b.Context()))
	holder := b.begin()
	b.must(b.mark(holder, []string{"m"}))
	marking := func(ids ...string) <-chan answer[[]string] {
		tx := b.begin()
		return async(b, func() (Result[[]string], error) {
			fresh, err := b.mark(tx, ids, &MarkOpts{WaitBound: time.Minute})
			return Result[[]string]{Value: fresh}, errors.Join(err, tx.Commit(b.Context()))
		})
	}
	first := marking("a", "m", "z") // has inserted a, and waits for m
	b.rowsAwaited(1)
	b.must(b.pool.Exec(b.Context(), "UPDATE idempotency_keys SET created_at = 'yesterday', finished_at = 'yesterday', expires_at = 'yesterday'"))
	second := marking("a", "z") // has deleted z, and waits for a
	b.rowsAwaited(2)
	b.must(nil, holder.Commit(b.Context()))
	one, other := <-first, <-second
	b.must(nil, errors.Join(one.err, other.err))
	fresh := slices.Sorted(slices.Values(append(one.Value, other.Value...)))
	b.wantFresh(fresh, nil, "a", "z")
	b.wantMarks(3)
}

// review 23: several calls in one transaction choose their own order, and a deadlock between them is reported as such.
func TestReview23MarkTxDeadlock(t *testing.T) {
	b := setup(t)
	one, two := b.begin(), b.begin()
	b.must(b.mark(one, []string{"a"}))
	b.must(b.mark(two, []string{"b"}))
	marking := func(tx pgx.Tx, id string) <-chan answer[[]string] {
		return async(b, func() (Result[[]string], error) {
			fresh, err := b.mark(tx, []string{id})
			return Result[[]string]{Value: fresh}, err
		})
	}
	first, second := marking(one, "b"), marking(two, "a")
	var err error
	var victim, other pgx.Tx
	var others <-chan answer[[]string]
	select { // the server chooses
	case a := <-first:
		err, victim, other, others = a.err, one, two, second
	case a := <-second:
		err, victim, other, others = a.err, two, one, first
	}
	b.key = Key{Scope: scope}
	b.wantError(err, ErrDeadlock)
	b.wantAlive(victim)
	b.must(nil, victim.Rollback(b.Context()))
	if a := <-others; a.err != nil || len(a.Value) != 1 {
		b.Errorf("the other transaction got %v, %v; want its ID fresh", a.Value, a.err)
	}
	b.must(nil, other.Commit(b.Context()))
}

// rowsAwaited polls until n backends wait for a transaction, whose row is not committed.
func (b *bundle) rowsAwaited(n int) {
	b.Helper()
	b.until("rows are waited for", "SELECT count(*) = $1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'transactionid'", n)
}
