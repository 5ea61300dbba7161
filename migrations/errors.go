package migrations

import (
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// What Up, Down and Status return, wrapped in a sentence that names the schema, the versions and the way out.
var (
	// ErrNewerSchema: the schema was made by a newer pgidem, and this one can neither use nor remove it.
	// Use a pgidem that is at least as new as the schema.
	ErrNewerSchema = errors.New("the schema is newer than this pgidem")

	// ErrUnknownSchema: tables with pgidem's names are there, but not as pgidem makes them (another
	// program's, half of them, or not the version that the version table records). Nothing was changed.
	ErrUnknownSchema = errors.New("the schema is not as pgidem makes it")

	// ErrNotPermitted: the role lacks a privilege. Run migrations as the role that owns the schema, or grant it.
	ErrNotPermitted = errors.New("the role is not permitted to migrate")

	// ErrNoSchema: no schema of the search_path exists. Create it, or correct the search_path.
	ErrNoSchema = errors.New("the search_path leads to no schema")
)

var errNilPool = errors.New("migrations: the pool is nil: pass a *pgxpool.Pool, as pgxpool.New returns it")

// explain says what to do about the errors of PostgreSQL that a deployment meets.
func explain(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code {
	case "08P01": // protocol_violation
		return fmt.Errorf("a pooler seems to be in between, which refuses what it does not know, such as a start-up parameter "+
			"of pgidem.PoolConfig, or has no connection to the server: run migrations on a direct connection: %w", err)
	case "42501": // insufficient_privilege
		return fmt.Errorf("%w: run migrations as the role that owns pgidem's tables: %w", ErrNotPermitted, err)
	case "55P03": // lock_not_available
		return fmt.Errorf("a table was locked by other transactions for the whole lock_timeout, "+
			"nothing was changed by this step: run it again when the table is less busy: %w", err)
	}
	return err
}
