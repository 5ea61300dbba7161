package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/migrations"
)

// TestVersions puts the database into states that this package did not make.
func TestVersions(t *testing.T) {
	t.Parallel()

	record := func(version int) string {
		return fmt.Sprintf("INSERT INTO %s (version_id, is_applied) VALUES (%d, true)", migrations.TableName, version)
	}
	comment := func(text string) string {
		return fmt.Sprintf("COMMENT ON TABLE idempotency_keys IS '%s'", text)
	}
	for _, c := range []struct {
		name   string
		change string // made to a schema at version 1
		up     error
		down   error
		words  string // in each error
	}{
		{
			"NewerAndCompatible", comment("pgidem schema=2 compatible=1") + ";" + record(2),
			nil, migrations.ErrNewerSchema, "version 2",
		},
		{
			"NewerAndCompatibleAsPlainSQL", comment("pgidem schema=2 compatible=1"),
			nil, migrations.ErrNewerSchema, "version 2",
		},
		{
			"NewerAndIncompatible", comment("pgidem schema=2 compatible=2") + ";" + record(2),
			migrations.ErrNewerSchema, migrations.ErrNewerSchema, "use a newer pgidem",
		},
		{
			"VersionOfNobody", record(99),
			migrations.ErrNewerSchema, migrations.ErrNewerSchema, "version 99",
		},
		{
			"RecordedButGone", "DROP VIEW idempotency_illegal_rows; DROP TABLE idempotency_steps, idempotency_keys;" +
				"DROP DOMAIN idempotency_state, idempotency_kind",
			migrations.ErrUnknownSchema, migrations.ErrUnknownSchema, "DELETE FROM " + migrations.TableName + " WHERE version_id > 0",
		},
		{
			"HalfOfIt", "DROP VIEW idempotency_illegal_rows; DROP TABLE idempotency_steps",
			migrations.ErrUnknownSchema, migrations.ErrUnknownSchema, "not idempotency_illegal_rows, idempotency_steps",
		},
		{
			"WithoutComment", "COMMENT ON TABLE idempotency_keys IS NULL",
			migrations.ErrUnknownSchema, migrations.ErrUnknownSchema, "comment",
		},
		{
			"WithAnotherComment", comment("our keys"),
			migrations.ErrUnknownSchema, migrations.ErrUnknownSchema, `"our keys"`,
		},
		{
			"WithAnImpossibleComment", comment("pgidem schema=1 compatible=2"),
			migrations.ErrUnknownSchema, migrations.ErrUnknownSchema, "compatible=2",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			pool := migrated(t).Pool(t)
			apply(t, pool, c.change)
			before := tables(t, pool) + " " + recorded(t, pool)
			for _, run := range []struct {
				name string
				f    func(context.Context, *pgxpool.Pool) error
				want error
			}{{"Up", migrations.Up, c.up}, {"Down", migrations.Down, c.down}} {
				err := run.f(t.Context(), pool)
				if !errors.Is(err, run.want) {
					t.Errorf("%s: error %v, want %v", run.name, err, run.want)
				}
				if run.want != nil {
					wantWords(t, err, c.words)
				}
			}
			if after := tables(t, pool) + " " + recorded(t, pool); after != before {
				t.Errorf("changed from %s to %s", before, after)
			}
		})
	}

	t.Run("TablesOfAnotherProgram", func(t *testing.T) {
		t.Parallel()
		pool := devpg.Empty(t).Pool(t)
		apply(t, pool, `CREATE TABLE idempotency_keys (id bigint)`)
		_, statusErr := migrations.Status(t.Context(), pool)
		for _, err := range []error{migrations.Up(t.Context(), pool), migrations.Down(t.Context(), pool), statusErr} {
			if !errors.Is(err, migrations.ErrUnknownSchema) {
				t.Errorf("error %v, want ErrUnknownSchema", err)
			}
			wantWords(t, err, "has idempotency_keys but not", "search_path")
		}
		if got := recorded(t, pool); got != "none" {
			t.Errorf("a version table was made: %s", got)
		}
	})

	t.Run("StatusShowsNewerVersions", func(t *testing.T) {
		t.Parallel()
		pool := migrated(t).Pool(t)
		apply(t, pool, comment("pgidem schema=3 compatible=3")+";"+record(2))
		got := wantStatus(t, pool, append(newest[:1:1],
			migrations.Migration{Version: 2, Applied: true}, migrations.Migration{Version: 3, Applied: true}))
		if got[1].AppliedAt.IsZero() || !got[2].AppliedAt.IsZero() {
			t.Errorf("version 2 was recorded, version 3 was not: %+v", got)
		}
	})

	t.Run("AVersionTakenBackIsNotApplied", func(t *testing.T) {
		t.Parallel()
		pool := migrated(t).Pool(t)
		apply(t, pool, record(99)+";"+strings.Replace(record(99), "true", "false", 1))
		wantStatus(t, pool, newest)
		up(t, pool)
	})
}

// TestTheNewestFileSetsTheComment keeps the comment, which Up trusts, in step with the files.
func TestTheNewestFileSetsTheComment(t *testing.T) {
	t.Parallel()
	names, err := fs.Glob(migrations.FS, "*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		text, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%05d_", i+1); !strings.HasPrefix(name, want) {
			t.Errorf("%s: versions have no gaps, want %s…", name, want)
		}
		if want := fmt.Sprintf("IS 'pgidem schema=%d compatible=", i+1); !strings.Contains(string(text), want) {
			t.Errorf("%s does not set the comment to %q", name, want)
		}
	}
	if len(names) != len(newest) {
		t.Errorf("%d files, but the tests know of %d", len(names), len(newest))
	}
}

func wantWords(t *testing.T, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("error %v does not say %q", err, word)
		}
	}
}
