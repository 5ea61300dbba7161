// Package migrations installs, upgrades and removes pgidem's schema: the tables idempotency_keys and
// idempotency_steps, the view idempotency_illegal_rows and two domains.
//
// The same SQL files run in three ways, in any order: with [Up], with the goose CLI
//
//	goose -dir migrations -table pgidem_goose_version postgres "$DATABASE_URL" up
//
// and as plain SQL, which needs no goose. They share one version table ([TableName]) and one comment on
// idempotency_keys that names the version; after any of them, Up does nothing or says what is in its way.
//
// Everything goes to the first schema of the connection's search_path, the version table too.
//
// Run migrations as the role that shall own the tables, on a direct connection: Up and Down hold a
// session's advisory lock, which a transaction pooler (PgBouncer with pool_mode=transaction) does not keep.
package migrations

import (
	"context"
	"embed"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/pressly/goose/v3"
)

// FS holds the SQL files, for programs that run migrations with a tool of their own.
//
//go:embed *.sql
var FS embed.FS

// TableName is the table in which goose records what it applied. It is not goose's default, so that
// pgidem's versions never mix with those of the application.
const TableName = "pgidem_goose_version"

// Migration is one version of the schema and whether the database has it.
type Migration struct {
	Version int64
	// Name is the file's name in [FS], empty for a version that only a newer pgidem knows.
	Name    string
	Applied bool
	// AppliedAt is zero for a version that is not applied, or that was applied as plain SQL.
	AppliedAt time.Time
}

// Up brings the schema to the newest version that this package has. It may run at every start of every
// process: calls wait for each other (as long as ctx allows), and on a schema that is up to date it takes
// no lock on the tables. A schema made as plain SQL is recorded in the version table as what its
// comment says. A schema made by a newer pgidem that still serves this one is left as it is.
//
// It waits at most 5 s for the lock of a table (or the session's own lock_timeout, where one is set), so that
// an upgrade gives up instead of stalling a live table; it can then simply be run again.
//
// Errors: [ErrNewerSchema], [ErrUnknownSchema], [ErrNotPermitted], [ErrNoSchema], what ctx says, or PostgreSQL's own.
// Each file runs in one transaction; the files before the failed one stay applied.
func Up(ctx context.Context, pool *pgxpool.Pool) error {
	return run(ctx, pool, planUp, func(p *goose.Provider) error {
		_, err := p.Up(ctx)
		return err
	})
}

// Down removes the whole schema, not one version: every key and every saved result is gone, and operations that are
// retried afterwards run again. It removes the tables, the view and the domains; the empty version table stays.
// Where nothing is installed it does nothing.
//
// It refuses a schema with a version that it does not know ([ErrNewerSchema]), because it cannot know what
// that version made. Its other errors and its locks are those of [Up].
func Down(ctx context.Context, pool *pgxpool.Pool) error {
	return run(ctx, pool, planDown, func(p *goose.Provider) error {
		_, err := p.DownTo(ctx, 0)
		return err
	})
}

// Status tells, in order of version, what this package and the database have. It changes nothing, takes
// no lock and does not wait for a running Up. It needs SELECT on the version table. Its errors are those of [Up], but a
// newer schema is not one: its versions are listed without a name.
func Status(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	if pool == nil {
		return nil, errNilPool
	}
	var found *installed
	err := pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) (err error) {
		found, err = inspect(ctx, conn.Conn())
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("migrations: %w", explain(err))
	}
	if err := found.check(); err != nil {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	if err := found.consistent(); err != nil && found.newest() <= newestKnown() {
		return nil, fmt.Errorf("migrations: %w", err)
	}
	return found.migrations(), nil
}

// run lets goose work under the lock, and does before it what goose does not: refuse what is not pgidem's, and
// record what was applied as plain SQL.
func run(ctx context.Context, pool *pgxpool.Pool, plan planner, migrate func(*goose.Provider) error) error {
	if pool == nil {
		return errNilPool
	}
	err := withSession(ctx, pool, func(s *session) error {
		found, err := inspect(ctx, s.pgx())
		if err != nil {
			return err
		}
		todo, err := plan(found)
		if err != nil {
			return err
		}
		db := s.openDB()
		defer func() { _ = db.Close() }() // an adapter: the connection stays the session's
		if len(todo.adopt) > 0 {
			if err := adopt(ctx, db, found.hasVersions, todo.adopt); err != nil {
				return fmt.Errorf("record the installed version in %s: %w", TableName, err)
			}
		}
		if !todo.goose {
			return nil
		}
		provider, err := goose.NewProvider(goose.DialectPostgres, db, FS,
			goose.WithTableName(TableName), goose.WithDisableGlobalRegistry(true))
		if err != nil {
			return err
		}
		return migrate(provider)
	})
	if err != nil {
		return fmt.Errorf("migrations: %w", explain(err))
	}
	return nil
}
