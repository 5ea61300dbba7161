package faultconn

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestBlackHoleBeforeCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	hole := b.faults.BlackHole(Point{SQL: "commit"})
	ctx, cancel := context.WithCancel(b.ctx)
	done := start(func() error { return works["Tx"](ctx, conn, 1) })
	await(t, "the black hole", hole.Reached())
	cancel()
	if err := await(t, "the commit", done); !errors.Is(err, context.Canceled) {
		t.Errorf("the client got %v, want context.Canceled", err)
	}
	if !b.sessionAlive(t) {
		t.Error("the server has ended the session: the socket was not kept open")
	}
	if b.committed(t, 1) {
		t.Error("committed, but COMMIT was not delivered")
	}
	hole.Heal()
	b.awaitEnd(t)
	if !b.committed(t, 1) {
		t.Error("healed, and COMMIT did not arrive")
	}
}

func TestBlackHoleAfterCommit(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	hole := b.faults.BlackHole(Point{SQL: "commit", When: After})
	ctx, cancel := context.WithCancel(b.ctx)
	done := start(func() error { return works["Tx"](ctx, conn, 1) })
	await(t, "the black hole", hole.Reached())
	cancel()
	if err := await(t, "the commit", done); !errors.Is(err, context.Canceled) {
		t.Errorf("the client got %v, want context.Canceled", err)
	}
	// The same key waits for the transaction in flight: no need to guess how
	// far the server is.
	tag, err := b.truth.Exec(b.ctx, insert+" on conflict do nothing", 1)
	if err != nil {
		t.Fatal(err)
	}
	if tag.RowsAffected() != 0 {
		t.Error("not committed, but COMMIT was delivered")
	}
	if !b.sessionAlive(t) {
		t.Error("the server has ended the session: the socket was not kept open")
	}
	hole.Cut()
	b.awaitEnd(t)
}

// The client closes its side during a black hole; the server must not hear of
// it before the network heals, wherever the hole began.
func TestBlackHoleSurvivesClose(t *testing.T) {
	t.Parallel()
	for _, side := range []Side{Client, Server} {
		t.Run(side.String(), func(t *testing.T) {
			t.Parallel()
			b := setup(t, pgx.QueryExecModeExec)
			conn := b.connect(t)
			hole := b.faults.BlackHole(Point{Side: side})
			done := start(func() error { return conn.Ping(b.ctx) })
			await(t, "the black hole", hole.Reached())
			if err := conn.Conn().PgConn().Conn().Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if err := await(t, "the ping", done); err == nil {
				t.Error("a ping on a closed connection succeeded")
			}
			if !b.sessionAlive(t) {
				t.Error("the server has ended the session: the close got through")
			}
			hole.Heal()
			b.awaitEnd(t)
		})
	}
}

func TestBlackHoleHealsUnderAWaitingClient(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	hole := b.faults.BlackHole(Point{SQL: "commit", When: Mid})
	done := start(func() error { return works["Batch"](b.ctx, conn, 1) })
	await(t, "the black hole", hole.Reached())
	hole.Heal()
	if err := await(t, "the commit", done); err != nil {
		t.Errorf("after healing: %v", err)
	}
	if !b.committed(t, 1) {
		t.Error("not committed after healing")
	}
}
