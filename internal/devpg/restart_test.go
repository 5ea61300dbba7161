package devpg

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A server that stops and starts keeps what was committed, and its address; it ends with the test as any other.
func TestAServerStopsAndStartsAgain(t *testing.T) {
	t.Parallel()
	var was instance
	t.Run("Restartable", func(t *testing.T) {
		db := Restartable(t)
		was = db.server.instance
		pool := db.Pool(t)
		write(t, pool, "CREATE TABLE kept ()")
		write(t, pool, "INSERT INTO kept DEFAULT VALUES")
		started := asked(t, pool, "SELECT pg_postmaster_start_time()::text")
		open, err := pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open.Exec(t.Context(), "INSERT INTO kept DEFAULT VALUES"); err != nil {
			t.Fatal(err)
		}

		db.StopServer(t)
		if err := ping(t.Context(), db.URL()); err == nil {
			t.Error("the server that was stopped answers")
		}
		if err := open.Commit(t.Context()); err == nil {
			t.Error("a transaction has outlived its server")
		}

		db.StartServer(t)
		pool.Reset() // its connections ended with the server
		if asked(t, pool, "SELECT pg_postmaster_start_time()::text") == started {
			t.Error("it is the same server: it was not stopped")
		}
		if n := asked(t, pool, "SELECT count(*)::text FROM kept"); n != "1" {
			t.Errorf("%s rows are there, want the one that was committed", n)
		}
		if _, err := db.server.NewDatabase(t.Context()); err != nil {
			t.Errorf("devpg itself does not reach it any more: %v", err)
		}
	})
	if was.Holder != "" && !gone(t, was) {
		t.Error("the server was not removed")
	}
}

// A demoted server is a hot standby at the same address until it is promoted.
func TestADemotedServerIsAHotStandby(t *testing.T) {
	t.Parallel()
	db := Restartable(t)
	pool := db.Pool(t)
	write(t, pool, "CREATE TABLE kept ()")

	db.DemoteServer(t)
	pool.Reset()
	if asked(t, pool, "SELECT pg_is_in_recovery()::text") != "true" {
		t.Error("it is not in recovery")
	}
	if n := asked(t, pool, "SELECT count(*)::text FROM kept"); n != "0" {
		t.Errorf("%s rows, want the empty table that was there", n)
	}
	var refused *pgconn.PgError
	if _, err := pool.Exec(t.Context(), "INSERT INTO kept DEFAULT VALUES"); !errors.As(err, &refused) || refused.Code != "25006" {
		t.Errorf("a write to the standby: %v, want it to be read-only", err)
	}

	for range 2 { // the second time it is a primary already
		db.PromoteServer(t)
		write(t, pool, "INSERT INTO kept DEFAULT VALUES")
	}
}

// What a test leaves as a standby is a primary again when it ends: its database can be dropped.
func TestADemotedServerEndsAsAPrimary(t *testing.T) {
	t.Parallel()
	r := record(t)
	db := Restartable(r)
	db.DemoteServer(r)
	r.end()
	if r.failed {
		t.Errorf("the test's end failed: %s", r.text.String())
	}
}

func write(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), sql); err != nil {
		t.Fatal(err)
	}
}

func asked(t *testing.T, pool *pgxpool.Pool, sql string) (answer string) {
	t.Helper()
	if err := pool.QueryRow(context.Background(), sql).Scan(&answer); err != nil {
		t.Fatal(err)
	}
	return answer
}
