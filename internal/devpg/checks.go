package devpg

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// leakBound is what the server may take to notice that a connection was closed.
const leakBound = 5 * time.Second

const undefinedTable = "42P01" // SQLSTATE

// checkConnections reports who is still connected to the database.
func checkConnections(ctx context.Context, d *Database) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(leakBound)
	for {
		// Only sessions and their parallel workers have a user: autovacuum comes and goes as it likes.
		left, err := list(ctx, d.server.admin, `SELECT format('pid %s, application_name %L, %s: %s', pid, application_name, state, query)
			FROM pg_stat_activity WHERE datname = $1 AND usesysid IS NOT NULL`, d.name)
		if err != nil {
			return fmt.Errorf("devpg: look for open connections to %s: %w", d.name, err)
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("devpg: the test left connections to its database open:\n  %s", strings.Join(left, "\n  "))
		}
	}
}

// checkRows reports what the view idempotency_illegal_rows finds.
func checkRows(ctx context.Context, d *Database) error {
	conn, err := pgx.Connect(ctx, d.URL())
	if err != nil {
		return fmt.Errorf("devpg: look for illegal rows: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	illegal, err := list(ctx, conn, "SELECT format('scope %L, id %L: %s', scope, id, reason) FROM idempotency_illegal_rows LIMIT 20")
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr) && pgErr.Code == undefinedTable:
		return errors.New("devpg: the view idempotency_illegal_rows is gone; a test that changes the schema takes devpg.Empty")
	case err != nil:
		return fmt.Errorf("devpg: look for illegal rows: %w", err)
	case len(illegal) > 0:
		return fmt.Errorf("devpg: the test left illegal rows in its database:\n  %s", strings.Join(illegal, "\n  "))
	}
	return nil
}

// finish keeps the database of a failed test where that is wanted, and drops it otherwise.
func (d *Database) finish(ctx context.Context, t testing.TB) {
	t.Helper()
	s := d.server
	switch {
	case !t.Failed():
		s.drops.drop(d.name)
		return
	case !s.lasting:
		t.Logf("devpg: to look into the database of this test, run it with %s=1", envKeep)
		s.drops.drop(d.name)
		return
	}
	if err := d.rename(ctx, keptName(d.name, t.Name())); err != nil {
		t.Error(err)
		return
	}
	s.keep.Store(true)
	t.Logf("devpg: the database of this test is kept: psql '%s'", d.URL())
}

// keptName keeps the run and the number in it, which make it unique, and adds the test; a name of PostgreSQL has 63 bytes.
func keptName(database, test string) string {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '_'
	}, test)
	name := keptPrefix + strings.TrimPrefix(database, prefix) + "_" + plain
	return name[:min(len(name), 63)]
}
