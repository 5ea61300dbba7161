package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/migrations"
)

func status(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := migrations.Status(ctx, pool)
	return err
}

// all are the functions that every refusal must cover.
var all = map[string]func(context.Context, *pgxpool.Pool) error{
	"Up": migrations.Up, "Down": migrations.Down, "Status": status,
}

func TestPool(t *testing.T) {
	t.Parallel()
	for name, f := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantWords(t, f(t.Context(), nil), "the pool is nil", "pgxpool.New")

			db := devpg.Empty(t)
			pool := connect(t, db)
			pool.Close()
			wantWords(t, f(t.Context(), pool), "closed pool")

			pool = connect(t, db)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := f(ctx, pool); !errors.Is(err, context.Canceled) {
				t.Errorf("error %v, want context.Canceled", err)
			}
			if n := pool.Stat().AcquiredConns(); n != 0 {
				t.Errorf("%d connections are still out", n)
			}
		})
	}
}

func TestRoleWithoutPrivilege(t *testing.T) {
	t.Parallel()

	t.Run("WithoutCreateOnTheSchema", func(t *testing.T) {
		t.Parallel()
		db := devpg.Empty(t)
		role := newRole(t, db)
		pool := connectAs(t, db, role)
		err := migrations.Up(t.Context(), pool)
		if !errors.Is(err, migrations.ErrNotPermitted) {
			t.Fatalf("error %v, want ErrNotPermitted", err)
		}
		// The statement in the message is complete: it can be pasted, and helps.
		grant := fmt.Sprintf(`GRANT CREATE ON SCHEMA "public" TO "%s"`, role)
		wantWords(t, err, grant)
		apply(t, db.Pool(t), grant)
		up(t, pool)
	})

	t.Run("WithoutCreateForTheVersionTable", func(t *testing.T) {
		t.Parallel()
		db := devpg.Empty(t)
		apply(t, db.Pool(t), upSection(t))
		err := migrations.Up(t.Context(), connectAs(t, db, newRole(t, db)))
		if !errors.Is(err, migrations.ErrNotPermitted) {
			t.Errorf("error %v, want ErrNotPermitted", err)
		}
		wantWords(t, err, "GRANT CREATE ON SCHEMA")
	})

	t.Run("WhoMayNotReadTheVersions", func(t *testing.T) {
		t.Parallel()
		db := migrated(t)
		pool := connectAs(t, db, newRole(t, db))
		for name, f := range all {
			if err := f(t.Context(), pool); !errors.Is(err, migrations.ErrNotPermitted) {
				t.Errorf("%s: error %v, want ErrNotPermitted", name, err)
			}
		}
	})

	t.Run("WhoDoesNotOwnTheTables", func(t *testing.T) {
		t.Parallel()
		db := migrated(t)
		role := newRole(t, db)
		apply(t, db.Pool(t), fmt.Sprintf(`GRANT ALL ON ALL TABLES IN SCHEMA public TO %s`, role))
		pool := connectAs(t, db, role)
		up(t, pool) // there is nothing to do, which everybody may
		err := migrations.Down(t.Context(), pool)
		if !errors.Is(err, migrations.ErrNotPermitted) {
			t.Errorf("error %v, want ErrNotPermitted", err)
		}
		wantWords(t, err, "owns pgidem's tables")
		wantStatus(t, pool, newest)
	})
}

// TestLiveTables holds the lock that every writer of the table has.
func TestLiveTables(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	writer, err := db.Pool(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// After Commit this does nothing.
	defer func() { _ = writer.Rollback(context.WithoutCancel(t.Context())) }()
	if _, err := writer.Exec(t.Context(), insertKey); err != nil {
		t.Fatal(err)
	}

	pool := connect(t, db, "lock_timeout", "100")
	up(t, pool)
	wantStatus(t, pool, newest)

	// The same writer does stop Down, which shows that Up would have been noticed. Down gives up, after the
	// session's own lock_timeout or after 5 s, and so lets the writers behind it go on.
	const ownBound = 5 * time.Second
	for _, stopped := range []struct {
		pool   *pgxpool.Pool
		waited func(time.Duration) bool
	}{
		{pool, func(d time.Duration) bool { return d < ownBound }},
		{connect(t, db), func(d time.Duration) bool { return d >= ownBound && d < 6*ownBound }},
	} {
		start := time.Now()
		err = migrations.Down(t.Context(), stopped.pool)
		if pg := (*pgconn.PgError)(nil); !errors.As(err, &pg) || pg.Code != "55P03" {
			t.Fatalf("Down: error %v, want 55P03", err)
		}
		wantWords(t, err, "run it again when the table is less busy")
		if waited := time.Since(start); !stopped.waited(waited) {
			t.Errorf("Down waited %s for the table", waited)
		}
	}
	if got := query[string](t, pool, `SHOW lock_timeout`); got != "100ms" {
		t.Errorf("lock_timeout is left at %s, want 100ms", got)
	}
	if err := writer.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Down(t.Context(), pool); err != nil {
		t.Errorf("Down after the writer: %v", err)
	}
}

// TestWaiting stops one Up in the middle, so that a second one has to wait.
func TestWaiting(t *testing.T) {
	t.Parallel()
	db := devpg.Empty(t)
	admin := db.Pool(t)
	obstacle, err := admin.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// After the Rollback below this does nothing.
	defer func() { _ = obstacle.Rollback(context.WithoutCancel(t.Context())) }()
	// The first Up cannot tell whether the name is free before this transaction ends.
	if _, err := obstacle.Exec(t.Context(), `CREATE TABLE `+migrations.TableName+` ()`); err != nil {
		t.Fatal(err)
	}

	results := make(chan error)
	start := func() {
		pool := connect(t, db, "lock_timeout", "60000")
		go func() { results <- migrations.Up(t.Context(), pool) }()
	}
	start()
	waitFor(t, admin, `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'advisory' AND l.granted AND a.wait_event_type = 'Lock'
		AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := migrations.Up(ctx, connect(t, db)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second Up: error %v, want context.DeadlineExceeded", err)
	}

	start()
	if err := obstacle.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-results; err != nil {
			t.Errorf("after the obstacle: %v", err)
		}
	}
	wantStatus(t, admin, newest)
}

// waitFor asks the server until the answer is true.
func waitFor(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !query[bool](t, pool, sql) {
		if time.Now().After(deadline) {
			t.Fatalf("still false: %s", sql)
		}
	}
}

// newRole makes a role without any privilege. Roles belong to the whole server, so its name is the database's.
func newRole(t *testing.T, db *devpg.Database) string {
	t.Helper()
	admin := db.Pool(t)
	role := "r" + strings.ToLower(strings.ReplaceAll(query[string](t, admin, `SELECT gen_random_uuid()::text`), "-", ""))
	apply(t, admin, `CREATE ROLE `+role)
	t.Cleanup(func() {
		// The test's context has ended, and so has its pool.
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		conn, err := pgx.Connect(ctx, db.URL())
		if err != nil {
			t.Errorf("drop role %s: %v", role, err)
			return
		}
		defer func() { _ = conn.Close(ctx) }()
		if _, err := conn.Exec(ctx, `DROP OWNED BY `+role+`; DROP ROLE `+role, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Errorf("drop role %s: %v", role, err)
		}
	})
	return role
}

// connectAs opens a pool whose statements have the role's privileges and no others.
func connectAs(t *testing.T, db *devpg.Database, role string, settings ...string) *pgxpool.Pool {
	t.Helper()
	return connect(t, db, append(settings, "role", role)...)
}
