package devpg

import (
	"context"
	"fmt"
	"net/url"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// querier is a connection or a pool of them.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// list returns the only column of a query's rows.
func list(ctx context.Context, q querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func ping(ctx context.Context, url string) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// drop drops a database, sessions included. It is no error if somebody else has dropped it, even at the same moment.
func drop(ctx context.Context, q querier, name string) error {
	_, err := q.Exec(ctx, "DROP DATABASE IF EXISTS "+quote(name)+" WITH (FORCE)")
	if err == nil {
		return nil
	}
	// A drop of two at once may fail in several ways; what counts is whether the database is there.
	left, listErr := list(ctx, q, "SELECT datname FROM pg_database WHERE datname = $1", name)
	if listErr == nil && len(left) == 0 {
		return nil
	}
	return fmt.Errorf("drop database %s: %w", name, err)
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// withDatabase returns the URL of another database on the same server.
func withDatabase(maintenance, name string) string {
	u, err := url.Parse(maintenance)
	if err != nil {
		panic(fmt.Sprintf("devpg: the server's URL was checked at the start: %v", err))
	}
	u.Path = "/" + name
	return u.String()
}
