package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/migrations"
)

func TestUp(t *testing.T) {
	t.Parallel()

	t.Run("TwiceIsOnce", func(t *testing.T) {
		t.Parallel()
		pool := devpg.Empty(t).Pool(t)
		up(t, pool)
		before := tables(t, pool)
		up(t, pool)
		if after := tables(t, pool); before == "" || after != before {
			t.Errorf("tables before %q, after %q", before, after)
		}
		if got := recorded(t, pool); got != "0,1" {
			t.Errorf("recorded %s, want 0,1", got)
		}
	})

	t.Run("ConcurrentCallsMigrateOnce", func(t *testing.T) {
		t.Parallel()
		db := devpg.Empty(t)
		// Fewer connections than callers: they must not starve each other.
		pools := []*pgxpool.Pool{connectSmall(t, db, 3), connectSmall(t, db, 3)}
		results := make(chan error)
		for n := range 8 {
			go func() { results <- migrations.Up(t.Context(), pools[n%2]) }()
		}
		for range 8 {
			if err := <-results; err != nil {
				t.Error(err)
			}
		}
		if got := recorded(t, pools[0]); got != "0,1" {
			t.Errorf("recorded %s, want 0,1", got)
		}
	})

	t.Run("OneConnectionIsEnough", func(t *testing.T) {
		t.Parallel()
		pool := connectSmall(t, devpg.Empty(t), 1)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := migrations.Up(ctx, pool); err != nil {
			t.Fatal(err)
		}
		if err := migrations.Down(ctx, pool); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("LeavesThePoolAsItWas", func(t *testing.T) {
		t.Parallel()
		pool := connectSmall(t, devpg.Empty(t), 1)
		for _, run := range []func(context.Context, *pgxpool.Pool) error{
			migrations.Up, migrations.Up, migrations.Down, migrations.Down,
		} {
			if err := run(t.Context(), pool); err != nil {
				t.Fatal(err)
			}
			if n := pool.Stat().AcquiredConns(); n != 0 {
				t.Errorf("%d connections are still out", n)
			}
			if got := query[string](t, pool, `SHOW lock_timeout`); got != "0" {
				t.Errorf("lock_timeout is left at %s", got)
			}
			if n := query[int](t, pool, `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()`); n != 0 {
				t.Errorf("%d advisory locks are left", n)
			}
		}
	})
}

func TestDown(t *testing.T) {
	t.Parallel()

	t.Run("RemovesEverythingAndUpMakesItAgain", func(t *testing.T) {
		t.Parallel()
		pool := migrated(t).Pool(t)
		if err := migrations.Down(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		const left = `SELECT (SELECT count(*) FROM pg_class WHERE relname LIKE 'idempotency\_%')
			+ (SELECT count(*) FROM pg_type WHERE typname LIKE 'idempotency\_%')`
		if n := query[int](t, pool, left); n != 0 {
			t.Errorf("%d objects are left", n)
		}
		if got := recorded(t, pool); got != "0" {
			t.Errorf("recorded %s, want 0", got)
		}
		up(t, pool)
		wantStatus(t, pool, newest)
	})

	t.Run("OfNothingDoesNothing", func(t *testing.T) {
		t.Parallel()
		pool := devpg.Empty(t).Pool(t)
		if err := migrations.Down(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		if got := recorded(t, pool); got != "none" {
			t.Errorf("a version table was made: %s", got)
		}
	})

	t.Run("OfPlainSQL", func(t *testing.T) {
		t.Parallel()
		pool := devpg.Empty(t).Pool(t)
		apply(t, pool, upSection(t))
		if err := migrations.Down(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		if got := tables(t, pool); got != "" {
			t.Errorf("left: %s", got)
		}
	})
}

func TestStatus(t *testing.T) {
	t.Parallel()

	t.Run("BeforeAndAfter", func(t *testing.T) {
		t.Parallel()
		pool := connect(t, devpg.Empty(t), "timezone", "Asia/Kathmandu")
		absent := []migrations.Migration{{Version: 1, Name: sqlFile}}
		wantStatus(t, pool, absent)
		if got := recorded(t, pool); got != "none" {
			t.Errorf("Status made a version table: %s", got)
		}

		before := query[time.Time](t, pool, `SELECT clock_timestamp()`)
		up(t, pool)
		after := query[time.Time](t, pool, `SELECT clock_timestamp()`)
		at := wantStatus(t, pool, newest)[0].AppliedAt
		if at.Before(before) || at.After(after) {
			t.Errorf("applied at %s, not between %s and %s", at, before, after)
		}

		if err := migrations.Down(t.Context(), pool); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, pool, absent)
	})

	t.Run("PlainSQLIsAppliedAtAnUnknownTime", func(t *testing.T) {
		t.Parallel()
		pool := devpg.Empty(t).Pool(t)
		apply(t, pool, upSection(t))
		if at := wantStatus(t, pool, newest)[0].AppliedAt; !at.IsZero() {
			t.Errorf("applied at %s", at)
		}
	})
}

// wantStatus compares everything but the times.
func wantStatus(t *testing.T, pool *pgxpool.Pool, want []migrations.Migration) []migrations.Migration {
	t.Helper()
	got, err := migrations.Status(t.Context(), pool)
	if err != nil {
		t.Fatalf("Status: %v", err)
	}
	timeless := slices.Clone(got)
	for i := range timeless {
		timeless[i].AppliedAt = time.Time{}
	}
	if !slices.Equal(timeless, want) {
		t.Fatalf("Status = %+v, want %+v", timeless, want)
	}
	return got
}

func TestSearchPath(t *testing.T) {
	t.Parallel()

	t.Run("TwoSchemasSideBySide", func(t *testing.T) {
		t.Parallel()
		db := devpg.Empty(t)
		admin := db.Pool(t)
		apply(t, admin, `CREATE SCHEMA shop; CREATE SCHEMA "Big Bank"`)
		up(t, admin)
		for _, schema := range []string{"shop", "Big Bank"} {
			// public already has the tables: they must not be taken for those of the first schema.
			pool := connect(t, db, "search_path", fmt.Sprintf("%q,public", schema))
			wantStatus(t, pool, []migrations.Migration{{Version: 1, Name: sqlFile}})
			up(t, pool)
			up(t, pool)
			wantStatus(t, pool, newest)
		}
		const homes = `SELECT string_agg(relnamespace::regnamespace::text, ',' ORDER BY relnamespace::regnamespace::text COLLATE "C")
			FROM pg_class WHERE relname = $1`
		for _, table := range []string{"idempotency_keys", "idempotency_steps", "idempotency_illegal_rows", migrations.TableName} {
			if got, want := query[string](t, admin, homes, table), `"Big Bank",public,shop`; got != want {
				t.Errorf("%s is in %s, want %s", table, got, want)
			}
		}

		shop := connect(t, db, "search_path", "shop,public")
		if err := migrations.Down(t.Context(), shop); err != nil {
			t.Fatal(err)
		}
		// And now nothing is left that a second Down could take, least of all public's tables.
		if err := migrations.Down(t.Context(), shop); err != nil {
			t.Fatal(err)
		}
		if got, want := query[string](t, admin, homes, "idempotency_keys"), `"Big Bank",public`; got != want {
			t.Errorf("after Down of shop the tables are in %s, want %s", got, want)
		}
	})

	t.Run("LeadingNowhere", func(t *testing.T) {
		t.Parallel()
		pool := connect(t, devpg.Empty(t), "search_path", "nowhere")
		_, statusErr := migrations.Status(t.Context(), pool)
		for _, err := range []error{migrations.Up(t.Context(), pool), migrations.Down(t.Context(), pool), statusErr} {
			if !errors.Is(err, migrations.ErrNoSchema) {
				t.Errorf("error %v, want ErrNoSchema", err)
			}
			wantWords(t, err, "nowhere", "CREATE SCHEMA")
		}
	})
}
