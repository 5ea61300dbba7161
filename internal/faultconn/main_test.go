package faultconn

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
)

func TestMain(m *testing.M) { devpg.Main(m) }

// patience bounds what must not hang. No test waits that long.
const patience = 30 * time.Second

// alive is the session lock that the connection under test holds: whoever else
// gets it knows that the server has ended that session, and all that it had to
// do before.
const alive = 42

const insert = "insert into notes (id) values ($1)"

var modes = map[string]pgx.QueryExecMode{
	"CacheStatement": pgx.QueryExecModeCacheStatement,
	"CacheDescribe":  pgx.QueryExecModeCacheDescribe,
	"DescribeExec":   pgx.QueryExecModeDescribeExec,
	"Exec":           pgx.QueryExecModeExec,
	"SimpleProtocol": pgx.QueryExecModeSimpleProtocol,
}

// bundle is a database of its own, looked at through two pools: client is under
// the control of faults, truth is not.
type bundle struct {
	ctx    context.Context
	faults *Faults
	client *pgxpool.Pool
	truth  *pgxpool.Pool
}

func setup(t *testing.T, mode pgx.QueryExecMode, configure ...func(*pgxpool.Config)) *bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)

	db := devpg.Empty(t)
	b := &bundle{ctx: ctx, faults: New(), truth: db.Pool(t)}
	b.exec(t, "create table notes (id int primary key)")

	cfg, err := pgxpool.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	cfg.MinConns, cfg.MaxConns = 0, 2
	cfg.ConnConfig.DefaultQueryExecMode = mode
	cfg.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	for _, c := range configure {
		c(cfg)
	}
	b.faults.Configure(cfg)
	b.client, err = pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	// The faults go first: a pool that waits for a held connection would wait long.
	t.Cleanup(b.client.Close)
	t.Cleanup(b.faults.Close)
	b.faults.RefuseCancel(true)
	return b
}

// connect gives a warm connection that holds the lock alive.
func (b *bundle) connect(t *testing.T) *pgxpool.Conn {
	t.Helper()
	conn, err := b.client.Acquire(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Release)
	if _, err := conn.Exec(b.ctx, "select pg_advisory_lock($1)", alive); err != nil {
		t.Fatal(err)
	}
	for id, work := range works {
		if err := work(b.ctx, conn, -len(id)); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

// works are two ways to do one transaction, with an ID that it inserts.
var works = map[string]func(context.Context, *pgxpool.Conn, int) error{
	"Tx": func(ctx context.Context, conn *pgxpool.Conn, id int) error {
		tx, err := conn.Begin(ctx)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, insert, id); err != nil {
			return err
		}
		return tx.Commit(ctx)
	},
	"Batch": func(ctx context.Context, conn *pgxpool.Conn, id int) error {
		batch := &pgx.Batch{}
		batch.Queue("begin")
		batch.Queue(insert, id)
		batch.Queue("commit")
		return conn.SendBatch(ctx, batch).Close()
	},
}

func (b *bundle) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := b.truth.Exec(b.ctx, sql, args...); err != nil {
		t.Fatal(err)
	}
}

// committed says whether the note can be seen by others now.
func (b *bundle) committed(t *testing.T, id int) bool {
	t.Helper()
	var found bool
	if err := b.truth.QueryRow(b.ctx, "select exists (select from notes where id = $1)", id).Scan(&found); err != nil {
		t.Fatal(err)
	}
	return found
}

// awaitEnd blocks until the server has ended the session under test.
func (b *bundle) awaitEnd(t *testing.T) {
	t.Helper()
	tx, err := b.truth.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx)
	if _, err := tx.Exec(b.ctx, "select pg_advisory_xact_lock($1)", alive); err != nil {
		t.Fatalf("the server did not end the session: %v", err)
	}
}

// sessionAlive says whether the server still has the session under test.
func (b *bundle) sessionAlive(t *testing.T) bool {
	t.Helper()
	var ended bool
	if err := b.truth.QueryRow(b.ctx, "select pg_try_advisory_xact_lock($1)", alive).Scan(&ended); err != nil {
		t.Fatal(err)
	}
	return !ended
}

// start runs fn beside the test and gives its error.
func start(fn func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	return done
}

// await takes a value, or fails where the test would hang.
func await[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing happened within %v", what, patience)
		panic("unreachable")
	}
}
