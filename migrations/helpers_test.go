package migrations_test

import (
	"context"
	"io/fs"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/migrations"
)

func TestMain(m *testing.M) { devpg.Main(m) }

const (
	gooseVersion = "v3.28.0"
	// gooseTags leave out the drivers of other databases, which take minutes to build; the Makefile has the same.
	gooseTags = "no_clickhouse,no_libsql,no_mssql,no_mysql,no_sqlite3,no_vertica,no_ydb"
	sqlFile   = "00001_idempotency.sql"
)

// newest is what Status must say after Up.
var newest = []migrations.Migration{{Version: 1, Name: sqlFile, Applied: true}}

// migrated is a database that Up has prepared, and that a test may change as it likes.
func migrated(t *testing.T) *devpg.Database {
	t.Helper()
	db := devpg.Empty(t)
	up(t, db.Pool(t))
	return db
}

// connect opens a pool with settings of the session, given as pairs of a name and a value.
func connect(t *testing.T, db *devpg.Database, settings ...string) *pgxpool.Pool {
	t.Helper()
	return db.Pool(t, func(config *pgxpool.Config) {
		for i := 0; i < len(settings); i += 2 {
			config.ConnConfig.RuntimeParams[settings[i]] = settings[i+1]
		}
	})
}

// connectSmall opens a pool of few connections.
func connectSmall(t *testing.T, db *devpg.Database, connections int32) *pgxpool.Pool {
	t.Helper()
	return db.Pool(t, func(config *pgxpool.Config) { config.MaxConns = connections })
}

// withSearchPath is the URL as a user would write it.
func withSearchPath(t *testing.T, rawURL, searchPath string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("search_path", searchPath)
	u.RawQuery = query.Encode()
	return u.String()
}

// apply runs one or several statements; several are one transaction.
func apply(t *testing.T, pool *pgxpool.Pool, sql string) {
	t.Helper()
	if err := tryApply(t, pool, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func tryApply(t *testing.T, pool *pgxpool.Pool, sql string) error {
	t.Helper()
	_, err := pool.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

func query[T any](t *testing.T, pool *pgxpool.Pool, sql string, args ...any) T {
	t.Helper()
	var value T
	if err := pool.QueryRow(t.Context(), sql, args...).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func up(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	if err := migrations.Up(t.Context(), pool); err != nil {
		t.Fatalf("Up: %v", err)
	}
}

// recorded are the versions in the version table in the order of goose's rows, "none" without the table.
func recorded(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	if query[*string](t, pool, `SELECT to_regclass($1)::text`, migrations.TableName) == nil {
		return "none"
	}
	return query[string](t, pool, `SELECT coalesce(string_agg(version_id::text, ',' ORDER BY id), '') FROM `+migrations.TableName)
}

// tables identifies the tables that are there: a table that was made again has another number.
func tables(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	return query[string](t, pool, `
		SELECT coalesce(string_agg(relname || '=' || oid || '/' || relfilenode, ' ' ORDER BY relname), '')
		FROM pg_class WHERE relname LIKE 'idempotency\_%' AND relnamespace = current_schema()::regnamespace`)
}

// upSection is what a person without goose would run.
func upSection(t *testing.T) string {
	t.Helper()
	text, err := fs.ReadFile(migrations.FS, sqlFile)
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "-- +goose Up\n")
	section, _, foundDown := strings.Cut(section, "-- +goose Down\n")
	if !found || !foundDown {
		t.Fatalf("%s has no Up and Down sections", sqlFile)
	}
	return section
}

// gooseCLI runs the real goose command, and gives its output and whether it succeeded.
func gooseCLI(t *testing.T, url, command string) (string, error) {
	t.Helper()
	cmd := gooseCommand(t, "-dir", "migrations", "-table", migrations.TableName, "postgres", url, command)
	output, err := cmd.CombinedOutput()
	return string(output), err
}

func gooseCommand(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	// The CLI's start may include its compilation, where `make` has not built it.
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, filepath.Join(root, ".bin", "goose-"+gooseVersion), args...)
	if _, err := exec.LookPath(cmd.Path); err != nil {
		cmd = exec.CommandContext(ctx, "go", append([]string{"run", "-tags", gooseTags, "github.com/pressly/goose/v3/cmd/goose@" + gooseVersion}, args...)...)
	}
	cmd.Dir = root
	return cmd
}
