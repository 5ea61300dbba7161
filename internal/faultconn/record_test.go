package faultconn

import (
	"context"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// The smallest campaign: record one transaction, then cut it at every message.
func TestCutEverywhere(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	b.faults.Record()
	if err := works["Tx"](b.ctx, conn, 1); err != nil {
		t.Fatal(err)
	}
	recorded := b.faults.Messages()
	b.faults.Reset()
	conn.Conn().Close(b.ctx)
	conn.Release()

	outcomes := map[bool]int{}
	for i, p := range Points(recorded) {
		b.awaitEnd(t)
		b.exec(t, "delete from notes")
		conn := b.connect(t)
		id := 100 + i
		fault := b.faults.Cut(p)
		err := works["Tx"](b.ctx, conn, id)
		if !fault.Fired() {
			t.Fatalf("%v: not reached; error: %v", p, err)
		}
		conn.Release()
		b.awaitEnd(t)
		committed := b.committed(t, id)
		outcomes[committed]++
		if err == nil && !committed {
			t.Errorf("%v: the client got a success, and nothing is committed", p)
		}
	}
	if len(recorded) < 12 || outcomes[true] == 0 || outcomes[false] == 0 {
		t.Errorf("%d messages, committed/not: %v; the campaign shows nothing", len(recorded), outcomes)
	}
}

func TestRecordNamesPreparedStatements(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeCacheStatement)
	conn := b.connect(t)
	b.faults.Record()
	if err := works["Batch"](b.ctx, conn, 1); err != nil {
		t.Fatal(err)
	}
	var executed, tags []string
	for _, m := range b.faults.Messages() {
		switch {
		case m.Side == Client && m.Type == Parse:
			t.Errorf("%q is prepared again: the connection was not warm", m.SQL)
		case m.Side == Client && m.Type == Execute:
			executed = append(executed, m.SQL)
		case m.Side == Server && m.Type == CommandComplete:
			tags = append(tags, m.Tag)
		}
	}
	equal(t, executed, []string{"begin", insert, "commit"})
	equal(t, tags, []string{"BEGIN", "INSERT 0 1", "COMMIT"})
}

func TestTagOfAnErrorIsItsSQLSTATE(t *testing.T) {
	t.Parallel()
	b := setup(t, pgx.QueryExecModeExec)
	conn := b.connect(t)
	hold := b.faults.Hold(Point{Side: Server, Type: ErrorResponse, Tag: "22012"})
	done := start(func() error {
		_, err := conn.Exec(b.ctx, "select 1/0")
		return err
	})
	await(t, "the error", hold.Reached())
	hold.Release()
	if err := await(t, "the statement", done); err == nil {
		t.Error("division by zero succeeded")
	}
}

// chopped reads and writes one byte at a time.
type chopped struct{ net.Conn }

func (c chopped) Read(b []byte) (int, error) { return c.Conn.Read(b[:min(len(b), 1)]) }

func (c chopped) Write(b []byte) (int, error) {
	for i := range b {
		if n, err := c.Conn.Write(b[i : i+1]); err != nil {
			return i + n, err
		}
	}
	return len(b), nil
}

func TestFramesSplitByteByByte(t *testing.T) {
	t.Parallel()
	for modeName, mode := range modes {
		t.Run(modeName, func(t *testing.T) {
			t.Parallel()
			chop := func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := new(net.Dialer).DialContext(ctx, network, addr)
				return chopped{c}, err
			}
			b := setup(t, mode, func(cfg *pgxpool.Config) { cfg.ConnConfig.DialFunc = chop })
			cfg := b.client.Config().ConnConfig
			inner := cfg.DialFunc
			cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
				c, err := inner(ctx, network, addr)
				return chopped{c}, err
			}
			conn, err := pgx.ConnectConfig(b.ctx, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(b.ctx)

			b.faults.Reset()
			hold := b.faults.Hold(Point{SQL: "commit"})
			done := start(func() error {
				return pgx.BeginFunc(b.ctx, conn, func(tx pgx.Tx) error {
					_, err := tx.Exec(b.ctx, insert, 1)
					return err
				})
			})
			await(t, "the hold", hold.Reached())
			if b.committed(t, 1) {
				t.Error("committed while COMMIT was held")
			}
			hold.Release()
			if err := await(t, "the commit", done); err != nil {
				t.Fatal(err)
			}
			if got := b.faults.Counts(); got.Commits != 1 || got.Frontend[Query] < 2 || got.Backend[ReadyForQuery] != got.Syncs {
				t.Errorf("got %+v, want 1 commit, the queries for begin and commit, and an answer to each sync", got)
			}
		})
	}
}
