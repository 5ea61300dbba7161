package faultconn

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"
)

func TestCounts(t *testing.T) {
	t.Parallel()
	for modeName, mode := range modes {
		t.Run(modeName, func(t *testing.T) {
			t.Parallel()
			want := map[string]int{"Tx": 3, "Batch": 1}
			if mode == pgx.QueryExecModeDescribeExec {
				// This mode asks for the types first, each time.
				want = map[string]int{"Tx": 4, "Batch": 2}
			}
			b := setup(t, mode)
			conn := b.connect(t)
			for name, roundTrips := range want {
				b.faults.Reset()
				if err := works[name](b.ctx, conn, len(name)); err != nil {
					t.Fatal(err)
				}
				got := b.faults.Counts()
				if got.RoundTrips != roundTrips || got.Syncs != roundTrips || got.Commits != 1 {
					t.Errorf("%s: %d round trips, %d syncs, %d commits; want %d, %d, 1",
						name, got.RoundTrips, got.Syncs, got.Commits, roundTrips, roundTrips)
				}
				if got.Connections != 0 || got.Cancels != 0 {
					t.Errorf("%s: %d connections, %d cancels; want none", name, got.Connections, got.Cancels)
				}
			}
		})
	}
}

func TestCountsByTypeAndConnection(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeExec)
	conn := b.connect(t)
	other, err := b.client.Acquire(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	if got := b.faults.Counts().Connections; got != 2 {
		t.Errorf("%d connections, want 2", got)
	}

	b.faults.Reset()
	if err := works["Tx"](b.ctx, conn, 1); err != nil {
		t.Fatal(err)
	}
	if err := other.Ping(b.ctx); err != nil {
		t.Fatal(err)
	}
	sum, byConn := b.faults.Counts(), b.faults.ByConn()
	want := map[byte]int{Query: 3, Parse: 1, Bind: 1, Describe: 1, Execute: 1, Sync: 1}
	if !reflect.DeepEqual(sum.Frontend, want) {
		t.Errorf("frontend messages %v, want %v", sum.Frontend, want)
	}
	if sum.Backend[ReadyForQuery] != 4 || sum.RoundTrips != 4 {
		t.Errorf("%d ReadyForQuery, %d round trips; want 4 each", sum.Backend[ReadyForQuery], sum.RoundTrips)
	}
	if byConn[1].RoundTrips != 3 || byConn[2].RoundTrips != 1 || len(byConn) != 2 {
		t.Errorf("by connection: %+v; want 3 and 1 round trips", byConn)
	}
}

// A rolled back COMMIT is no commit.
func TestCommitOfAFailedTransactionIsNotCounted(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeExec)
	conn := b.connect(t)
	tx, err := conn.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	b.faults.Reset()
	if _, err := tx.Exec(b.ctx, "select 1/0"); err == nil {
		t.Fatal("division by zero succeeded")
	}
	if err := tx.Commit(b.ctx); !errors.Is(err, pgx.ErrTxCommitRollback) {
		t.Fatalf("got %v, want ErrTxCommitRollback", err)
	}
	if got := b.faults.Counts().Commits; got != 0 {
		t.Errorf("%d commits, want 0", got)
	}
}

func TestCancelRequest(t *testing.T) {
	t.Parallel()
	const busy = 7 // a lock that the truth holds, so that the client's statement waits
	for name, refuse := range map[string]bool{"Delivered": false, "Refused": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := setup(t, pgx.QueryExecModeExec)
			b.faults.RefuseCancel(refuse)
			conn := b.connect(t)
			tx, err := b.truth.Begin(b.ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(b.ctx)
			if _, err := tx.Exec(b.ctx, "select pg_advisory_xact_lock($1)", busy); err != nil {
				t.Fatal(err)
			}

			// The server tells us when it is inside the statement (a cancel
			// request that comes earlier does nothing), and pgx says goodbye
			// when its cancel request is done.
			running := b.faults.Hold(Point{Side: Server, Type: NoticeResponse})
			goodbye := b.faults.Hold(Point{Type: Terminate})
			ctx, cancel := context.WithCancel(b.ctx)
			defer cancel()
			done := start(func() error {
				_, err := conn.Exec(ctx, fmt.Sprintf(`do $$ begin
					raise notice 'here';
					perform pg_advisory_lock(%d);
					insert into notes (id) values (1);
				end $$`, busy))
				return err
			})
			await(t, "the statement", running.Reached())
			running.Release()
			cancel()
			if err := await(t, "the statement", done); !errors.Is(err, context.Canceled) {
				t.Errorf("the client got %v, want context.Canceled", err)
			}
			await(t, "the end of the cancel request", goodbye.Reached())
			if err := tx.Rollback(b.ctx); err != nil {
				t.Fatal(err)
			}
			goodbye.Release()
			b.awaitEnd(t)
			if got := b.committed(t, 1); got != refuse {
				t.Errorf("the statement went through: %v, want %v", got, refuse)
			}
			await(t, "pgx's cleanup", conn.Conn().PgConn().CleanupDone())
			if got := b.faults.Counts().Cancels; got != 1 {
				t.Errorf("%d cancel requests, want 1", got)
			}
		})
	}
}

// Not parallel: it looks for goroutines that are left, also of other tests.
func TestNothingIsLeftWhenThePoolIsClosed(t *testing.T) {
	b := setup(t, pgx.QueryExecModeExec)
	before := goleak.IgnoreCurrent() // the server's keeper, the bundle's pools
	faults := New()
	cfg := b.client.Config()
	cfg.ConnConfig.DialFunc = faults.Dial
	pool, err := pgxpool.NewWithConfig(b.ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	hole := faults.BlackHole(Point{SQL: "select 1"})
	done := start(func() error {
		_, err := pool.Exec(b.ctx, "select 1")
		return err
	})
	await(t, "the black hole", hole.Reached())
	faults.Close()
	if err := await(t, "the statement", done); err == nil {
		t.Error("a statement in a black hole succeeded")
	}
	pool.Close()
	if n := len(faults.open); n != 0 {
		t.Errorf("%d connections are left", n)
	}
	goleak.VerifyNone(t, before)
}
