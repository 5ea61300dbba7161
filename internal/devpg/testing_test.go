package devpg

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// recorder stands for a test that may fail without failing the one that watches it.
type recorder struct {
	testing.TB
	name     string
	failed   bool
	text     strings.Builder
	cleanups []func()
}

func (r *recorder) Name() string      { return r.name }
func (r *recorder) Failed() bool      { return r.failed }
func (r *recorder) Cleanup(f func())  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Log(args ...any)   { fmt.Fprintln(&r.text, args...) }
func (r *recorder) Error(args ...any) { r.failed = true; r.Log(args...) }

func (r *recorder) Logf(format string, args ...any) { r.Log(fmt.Sprintf(format, args...)) }

// end does what the testing package does when a test function has returned.
func (r *recorder) end() {
	for _, f := range slices.Backward(r.cleanups) {
		f()
	}
}

func record(t *testing.T) *recorder { return &recorder{TB: t, name: t.Name() + "/Recorded"} }

// newRecorded is New for a recorder. A database that is kept because the recorder failed is dropped all the same.
func newRecorded(t *testing.T, r *recorder) *Database {
	t.Helper()
	db := New(r)
	t.Cleanup(func() {
		if err := db.Drop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return db
}

func TestEachDatabaseIsItsOwn(t *testing.T) {
	t.Parallel()
	var clones sync.WaitGroup
	for range 8 {
		clones.Go(func() {
			pool := New(t).Pool(t)
			// Fails where the name is taken: in a database that is not this test's own.
			if _, err := pool.Exec(t.Context(), "CREATE TABLE mine ()"); err != nil {
				t.Error(err)
			}
		})
	}
	clones.Wait()
	execute(t, New(t).URL(), "SELECT FROM idempotency_keys")
}

func TestSharedIsTheServerOfNew(t *testing.T) {
	t.Parallel()
	server, err := Shared()
	if err != nil {
		t.Fatal(err)
	}
	if db := New(t); db.server != server {
		t.Errorf("New has a server of its own: %s, not %s", db.server.URL(), server.URL())
	}
}

func TestSharedWithoutMainIsRefused(t *testing.T) {
	t.Parallel()
	out, err := play(t, "no main", environment()).CombinedOutput()
	if err != nil {
		t.Error(err)
	}
	mustContain(t, string(out), "needs func TestMain", "devpg.Main(m)")
}

func TestEmptyHasNoSchema(t *testing.T) {
	t.Parallel()
	pool := Empty(t).Pool(t)
	var tables int
	err := pool.QueryRow(t.Context(), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").Scan(&tables)
	if err != nil || tables != 0 {
		t.Errorf("%d tables, %v", tables, err)
	}
}

func TestPoolTakesItsConfiguration(t *testing.T) {
	t.Parallel()
	pool := New(t).Pool(t, func(c *pgxpool.Config) { c.MaxConns = 1 }, func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["application_name"] = "edited"
	})
	var name string
	if err := pool.QueryRow(t.Context(), "SHOW application_name").Scan(&name); err != nil || name != "edited" {
		t.Errorf("application_name = %q, %v", name, err)
	}
	if pool.Config().MaxConns != 1 {
		t.Errorf("MaxConns = %d", pool.Config().MaxConns)
	}
}

func TestDatabasesOfPassedTestsAreDroppedInBatches(t *testing.T) {
	t.Parallel()
	server := mustStart(t, envURL+"="+sharedServer(t).URL())
	server.drops.close()
	server.drops = startDropper(server.admin, 2)
	for range 2 {
		r := record(t)
		db, err := server.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		db.finish(t.Context(), r)
		mustContain(t, "", r.text.String()) // nothing to tell
	}
	// The template stays.
	eventually(t, "the databases are dropped", func() bool { return len(databases(t, server.URL(), prefix+server.Run+"_")) == 1 })
	if err := server.Close(); err != nil {
		t.Error(err)
	}
}

func TestAnOpenConnectionFailsTheTest(t *testing.T) {
	t.Parallel()
	r := record(t)
	conn := connect(t, newRecorded(t, r).URL())
	execute(t, conn.Config().ConnString(), "SELECT 1") // closed: not a leak
	if _, err := conn.Exec(t.Context(), "SELECT 'the leak'"); err != nil {
		t.Fatal(err)
	}
	r.end()
	if !r.failed {
		t.Error("the test passed")
	}
	mustContain(t, r.text.String(), "connections to its database open", "SELECT 'the leak'", fmt.Sprint("pid ", conn.PgConn().PID()))
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestAConnectionThatIsNotGivenBackIsReported(t *testing.T) {
	t.Parallel()
	pool := New(t).Pool(t)
	conn, err := pool.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = closePool(pool, time.Millisecond)
	conn.Release() // lets the pool's Close end
	if err == nil {
		t.Fatal("not reported")
	}
	mustContain(t, err.Error(), "1 connections of a pool were not given back")
}

func TestIllegalRowsFailTheTest(t *testing.T) {
	t.Parallel()
	r := record(t)
	execute(t, newRecorded(t, r).URL(), `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt)
		VALUES ('shop', 'order-1', 'tx', 'parked', gen_random_uuid(), 0)`)
	r.end()
	if !r.failed {
		t.Error("the test passed")
	}
	mustContain(t, r.text.String(), "illegal rows", "'shop'", "'order-1'", "attempt is less than 1")
}

func TestAMissingViewFailsTheTest(t *testing.T) {
	t.Parallel()
	r := record(t)
	execute(t, newRecorded(t, r).URL(), "DROP VIEW idempotency_illegal_rows")
	r.end()
	if !r.failed {
		t.Error("the test passed")
	}
	mustContain(t, r.text.String(), "idempotency_illegal_rows is gone", "devpg.Empty")
}

func TestAFailedTestsDatabaseIsKeptWhereTheServerStays(t *testing.T) {
	t.Parallel()
	server := mustStart(t, envURL+"="+sharedServer(t).URL())
	db, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := record(t)
	r.failed = true
	was := db.name
	db.finish(t.Context(), r)
	mustContain(t, r.text.String(), "is kept", "psql '"+db.URL()+"'")
	mustContain(t, db.name, keptPrefix+server.Run, "testafailedtests")
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	// After the run has ended it is all that is left of it.
	execute(t, db.URL(), "SELECT FROM idempotency_keys")
	if left := databases(t, server.URL(), was); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := drop(t.Context(), sharedServer(t).admin, db.name); err != nil {
		t.Error(err)
	}
}

func TestAFailedTestIsToldHowToKeepItsDatabase(t *testing.T) {
	t.Parallel()
	server := mustStart(t, envURL+"="+sharedServer(t).URL(), envHost+"=in a server that stops")
	mustContain(t, server.Describe(), "in a server that stops")
	db, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := record(t)
	r.failed = true
	db.finish(t.Context(), r)
	mustContain(t, r.text.String(), envKeep+"=1")
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	if left := databases(t, server.URL(), keptPrefix+server.Run); len(left) > 0 {
		t.Errorf("kept: %v", left)
	}
	// What is dropped with the server is not dropped one by one before.
	if gone(t, server.instance) {
		t.Error("the databases were dropped")
	}
	next := mustStart(t, envURL+"="+sharedServer(t).URL()) // lasting: sweeps them
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

func TestMainFailsOnLeftGoroutines(t *testing.T) {
	t.Parallel()
	out, err := play(t, "leak", environment(), "-test.run=^$").CombinedOutput()
	if err == nil {
		t.Error("the tests passed")
	}
	mustContain(t, string(out), "left goroutines", "TestMain")
}

func TestKeptNamesFitPostgreSQL(t *testing.T) {
	t.Parallel()
	got := keptName("pgidem_test_0a1b2c3d_12", "TestÄ/Sub-Case#01"+strings.Repeat("x", 80))
	if want := "pgidem_kept_0a1b2c3d_12_test__sub_case_01"; !strings.HasPrefix(got, want) || len(got) != 63 {
		t.Errorf("%q (%d bytes)", got, len(got))
	}
}

func shell(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}
