package faultconn

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestHoldAtCommit(t *testing.T) {
	t.Parallel()
	for modeName, mode := range modes {
		t.Run(modeName, func(t *testing.T) {
			t.Parallel()
			b := setup(t, mode)
			conn := b.connect(t)
			id := 0
			for workName, work := range works {
				id++
				hold := b.faults.Hold(Point{SQL: "commit"})
				done := start(func() error { return work(b.ctx, conn, id) })
				await(t, "the hold", hold.Reached())
				if b.committed(t, id) {
					t.Errorf("%s: committed while COMMIT was held", workName)
				}
				hold.Release()
				if err := await(t, "the commit", done); err != nil {
					t.Errorf("%s: after the release: %v", workName, err)
				}
				if !b.committed(t, id) {
					t.Errorf("%s: not committed after the release", workName)
				}
			}
		})
	}
}

// Before a batch means before its first statement, Mid behind all that precede
// the one that was named.
func TestHoldOfABatch(t *testing.T) {
	t.Parallel()
	for when, executes := range map[When]int{Before: 0, Mid: 3, After: 3} {
		t.Run(when.String(), func(t *testing.T) {
			t.Parallel()
			b := setup(t, pgx.QueryExecModeCacheStatement)
			conn := b.connect(t)
			b.faults.Reset()
			hold := b.faults.Hold(Point{SQL: "commit", When: when})
			done := start(func() error { return works["Batch"](b.ctx, conn, 1) })
			await(t, "the hold", hold.Reached())
			if got := b.faults.Counts().Frontend[Execute]; got != executes {
				t.Errorf("%d Executes had their turn, want %d", got, executes)
			}
			hold.Release()
			if err := await(t, "the batch", done); err != nil {
				t.Errorf("after the release: %v", err)
			}
		})
	}
}

func TestHeldCommitIsCut(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	hold := b.faults.Hold(Point{SQL: "commit"})
	done := start(func() error { return works["Tx"](b.ctx, conn, 1) })
	await(t, "the hold", hold.Reached())
	hold.Cut()
	if err := await(t, "the commit", done); !lost(err) {
		t.Errorf("the client got %v, want a lost connection", err)
	}
	b.awaitEnd(t)
	if b.committed(t, 1) {
		t.Error("committed, but COMMIT was cut")
	}
}

// The server has committed and the client still waits for the answer.
func TestHeldAnswer(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	hold := b.faults.Hold(Point{Side: Server, Tag: "COMMIT"})
	done := start(func() error { return works["Tx"](b.ctx, conn, 1) })
	await(t, "the hold", hold.Reached())
	if !b.committed(t, 1) {
		t.Error("not committed, but the answer was here")
	}
	select {
	case err := <-done:
		t.Errorf("the client had its answer (error %v) while it was held", err)
	default:
	}
	hold.Release()
	if err := await(t, "the commit", done); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

// A COMMIT that is under way when its client gives up may arrive at any later
// time: this is what makes "not there" no proof of "not committed".
func TestHeldCommitArrivesAfterItsClientGaveUp(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	hold := b.faults.Hold(Point{SQL: "commit"})
	ctx, cancel := context.WithCancel(b.ctx)
	done := start(func() error { return works["Tx"](ctx, conn, 1) })
	await(t, "the hold", hold.Reached())
	cancel()
	if err := await(t, "the commit", done); !errors.Is(err, context.Canceled) {
		t.Errorf("the client got %v, want context.Canceled", err)
	}
	if b.committed(t, 1) {
		t.Error("committed while COMMIT was held")
	}
	hold.Release()
	b.awaitEnd(t)
	if !b.committed(t, 1) {
		t.Error("the late COMMIT did not arrive")
	}
	await(t, "pgx's cleanup", conn.Conn().PgConn().CleanupDone())
}
