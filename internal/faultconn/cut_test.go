package faultconn

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Every exec mode and both ways to send a transaction: the database must say
// what the point promises.
func TestCutAtCommit(t *testing.T) {
	t.Parallel()
	points := []struct {
		name      string
		point     Point
		committed bool
	}{
		{"BeforeRequest", Point{SQL: "commit", When: Before}, false},
		{"MidRequest", Point{SQL: "commit", When: Mid}, false},
		{"AfterRequest", Point{SQL: "commit", When: After}, true},
		{"BeforeAnswer", Point{Side: Server, Type: CommandComplete, Tag: "COMMIT", When: Before}, true},
		{"MidAnswer", Point{Side: Server, Type: CommandComplete, Tag: "COMMIT", When: Mid}, true},
		{"AfterAnswer", Point{Side: Server, Type: CommandComplete, Tag: "COMMIT", When: After}, true},
	}
	for modeName, mode := range modes {
		t.Run(modeName, func(t *testing.T) {
			t.Parallel()
			b := setup(t, mode)
			id := 0
			for workName, work := range works {
				for _, p := range points {
					id++
					conn := b.connect(t)
					fault := b.faults.Cut(p.point)
					if fault.Fired() {
						t.Fatalf("%s/%s: fired before the work", workName, p.name)
					}
					err := work(b.ctx, conn, id)
					if !fault.Fired() {
						t.Fatalf("%s/%s: the point was not reached; error: %v", workName, p.name, err)
					}
					if !lost(err) {
						t.Errorf("%s/%s: the client got %v, want a lost connection", workName, p.name, err)
					}
					conn.Release()
					b.awaitEnd(t)
					if got := b.committed(t, id); got != p.committed {
						t.Errorf("%s/%s: committed = %v, want %v", workName, p.name, got, p.committed)
					}
					b.exec(t, "delete from notes where id < 0")
				}
			}
		})
	}
}

// lost says whether err is what pgx makes of ECONNRESET. Where it waits for the
// answer to a Query or to a pgconn.Batch, it hides the cause and gives
// ErrConnClosed.
func lost(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, pgconn.ErrConnClosed)
}

// Pins an oddity of pgx 5.12 that this package brought to light: that
// ErrConnClosed claims that nothing was sent. Do not decide by SafeToRetry
// whether a COMMIT can be repeated. If this fails, pgx has mended it.
func TestPgxCallsACommittedTransactionSafeToRetry(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	b.faults.Cut(Point{Side: Server, Tag: "COMMIT"})
	err := works["Tx"](b.ctx, conn, 1)
	if !errors.Is(err, pgconn.ErrConnClosed) || !pgconn.SafeToRetry(err) {
		t.Errorf("error %v, safe to retry %v", err, pgconn.SafeToRetry(err))
	}
	if !b.committed(t, 1) {
		t.Error("not committed")
	}
}

// With Type the point is a frame, so that a batch can be cut between the
// statement and its Sync: the COMMIT was executed.
func TestCutBetweenCommitAndSync(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	fault := b.faults.Cut(Point{Type: Execute, SQL: "COMMIT", When: After})
	if err := works["Batch"](b.ctx, conn, 1); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the client got %v, want ECONNRESET", err)
	}
	await(t, "the cut", fault.Reached())
	b.awaitEnd(t)
	if !b.committed(t, 1) {
		t.Error("the transaction is not committed, but its COMMIT was executed")
	}
}

func TestFailWriteIsSafeToRetryOnlyIfNothingWasSent(t *testing.T) {
	t.Parallel()
	for when, safe := range map[When]bool{Before: true, Mid: false, After: false} {
		t.Run(when.String(), func(t *testing.T) {
			t.Parallel()
			b := setup(t, pgx.QueryExecModeExec)
			conn := b.connect(t)
			b.faults.Cut(Point{SQL: "commit", When: when, FailWrite: true})
			err := works["Tx"](b.ctx, conn, 1)
			var op *net.OpError
			if !errors.As(err, &op) || op.Op != "write" || !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("the client got %v, want ECONNRESET from a write", err)
			}
			if got := pgconn.SafeToRetry(err); got != safe {
				t.Errorf("SafeToRetry = %v, want %v", got, safe)
			}
		})
	}
}

func TestNth(t *testing.T) {
	t.Parallel()
	ping := func(t *testing.T, b *bundle) (first, second func() error) {
		one, err := b.client.Acquire(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(one.Release)
		two, err := b.client.Acquire(b.ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(two.Release)
		return func() error { return one.Ping(b.ctx) }, func() error { return two.Ping(b.ctx) }
	}
	t.Run("CountsOverAllConnections", func(t *testing.T) {
		t.Parallel()
		b := setup(t, pgx.QueryExecModeExec)
		first, second := ping(t, b)
		b.faults.Cut(Point{Type: Query, Nth: 2})
		if err := first(); err != nil {
			t.Errorf("first message: %v", err)
		}
		if err := second(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("second message: got %v, want ECONNRESET", err)
		}
	})
	t.Run("OneConnCountsOnTheFirstThatMatches", func(t *testing.T) {
		t.Parallel()
		b := setup(t, pgx.QueryExecModeExec)
		first, second := ping(t, b)
		b.faults.Cut(Point{Type: Query, Nth: 2, OneConn: true})
		for _, ping := range []func() error{first, second, second} {
			if err := ping(); err != nil {
				t.Errorf("before the point: %v", err)
			}
		}
		if err := first(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("second message of the first connection: got %v, want ECONNRESET", err)
		}
	})
	t.Run("TwoFaultsTakeOneMessageEach", func(t *testing.T) {
		t.Parallel()
		b := setup(t, pgx.QueryExecModeExec)
		first, second := ping(t, b)
		b.faults.Cut(Point{Type: Query})
		b.faults.Cut(Point{Type: Query})
		for _, ping := range []func() error{first, second} {
			if err := ping(); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v, want ECONNRESET", err)
			}
		}
	})
	t.Run("ReleaseDisarms", func(t *testing.T) {
		t.Parallel()
		b := setup(t, pgx.QueryExecModeExec)
		first, _ := ping(t, b)
		fault := b.faults.Cut(Point{Type: Query})
		fault.Release()
		if err := first(); err != nil || fault.Fired() {
			t.Errorf("error %v, fired %v; want neither", err, fault.Fired())
		}
	})
}
