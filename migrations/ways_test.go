package migrations_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/migrations"
)

// TestWays runs each way to migrate after each other one, with a row in the tables that must survive.
func TestWays(t *testing.T) {
	t.Parallel()

	const (
		goCode   = "Go"
		cli      = "CLI"
		plainSQL = "PlainSQL"
	)
	run := func(t *testing.T, way, url string, pool *pgxpool.Pool) error {
		t.Helper()
		switch way {
		case goCode:
			return migrations.Up(t.Context(), pool)
		case cli:
			output, err := gooseCLI(t, url, "up")
			t.Logf("goose: %s", output)
			return err
		default:
			return tryApply(t, pool, upSection(t))
		}
	}
	for _, c := range []struct {
		first, then string
		fails       bool
		recorded    string
	}{
		{goCode, goCode, false, "0,1"},
		{goCode, cli, false, "0,1"},
		{goCode, plainSQL, true, "0,1"},
		{cli, goCode, false, "0,1"},
		{cli, cli, false, "0,1"},
		{cli, plainSQL, true, "0,1"},
		{plainSQL, goCode, false, "0,1"},
		{plainSQL, cli, true, "0"},
		{plainSQL, plainSQL, true, "none"},
	} {
		t.Run(c.first+"Then"+c.then, func(t *testing.T) {
			t.Parallel()
			db := devpg.Empty(t)
			pool := db.Pool(t)
			if err := run(t, c.first, db.URL(), pool); err != nil {
				t.Fatalf("first: %v", err)
			}
			apply(t, pool, insertKey)
			before := tables(t, pool)

			err := run(t, c.then, db.URL(), pool)
			if (err != nil) != c.fails {
				t.Errorf("then: error %v, want one: %t", err, c.fails)
			}
			if after := tables(t, pool); after != before {
				t.Errorf("the tables changed from %s to %s", before, after)
			}
			if n := query[int](t, pool, `SELECT count(*) FROM idempotency_keys`); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
			if got := recorded(t, pool); got != c.recorded {
				t.Errorf("recorded %s, want %s", got, c.recorded)
			}

			// Go after everything heals the version table, and then the CLI has nothing to do either.
			up(t, pool)
			if got := recorded(t, pool); got != "0,1" {
				t.Errorf("recorded %s after Up, want 0,1", got)
			}
			if err := run(t, cli, db.URL(), pool); err != nil {
				t.Errorf("goose CLI after Up: %v", err)
			}
			if after := tables(t, pool); after != before {
				t.Errorf("the tables changed from %s to %s", before, after)
			}
		})
	}

	t.Run("CLIInAnotherSchema", func(t *testing.T) {
		t.Parallel()
		db := devpg.Empty(t)
		apply(t, db.Pool(t), `CREATE SCHEMA shop`)
		url := withSearchPath(t, db.URL(), "shop,public")
		pool := connect(t, db, "search_path", "shop,public")
		if output, err := gooseCLI(t, url, "up"); err != nil {
			t.Fatalf("goose up: %v\n%s", err, output)
		}
		before := tables(t, pool)
		up(t, pool)
		if after := tables(t, pool); after != before {
			t.Errorf("the tables changed from %s to %s", before, after)
		}
		wantStatus(t, pool, newest)
		if output, err := gooseCLI(t, url, "down"); err != nil {
			t.Fatalf("goose down: %v\n%s", err, output)
		}
		wantStatus(t, pool, []migrations.Migration{{Version: 1, Name: sqlFile}})
	})

	t.Run("TheCLIIsThePinnedOne", func(t *testing.T) {
		t.Parallel()
		output, err := gooseCommand(t, "-version").CombinedOutput()
		if err != nil || !strings.Contains(string(output), gooseVersion) {
			t.Errorf("goose -version: %s (%v), want %s", output, err, gooseVersion)
		}
	})
}

// insertKey is a finished operation.
const insertKey = `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, result, finished_at, expires_at)
	VALUES ('shop', '1', 'tx', 'succeeded', gen_random_uuid(), 1, 'ok', clock_timestamp(), clock_timestamp() + interval '1 day')`
