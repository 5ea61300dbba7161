package devpg

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// closeBound is for a pool whose connections were all given back.
const closeBound = 10 * time.Second

// Pool connects to the database; edit changes the pool's configuration before. The pool is closed when t ends, which
// fails if a connection was not given back.
func (d *Database) Pool(t testing.TB, edit ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return newPool(t, d.URL(), edit)
}

func newPool(t testing.TB, url string, edit []func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range edit {
		change(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		t.Helper()
		if err := closePool(pool, closeBound); err != nil {
			t.Error(err)
		}
	})
	return pool
}

// closePool does not hang, as Close alone would, on a connection that was never given back.
func closePool(pool *pgxpool.Pool, bound time.Duration) error {
	closed := make(chan struct{})
	go func() {
		pool.Close()
		close(closed)
	}()
	select {
	case <-closed:
		return nil
	case <-time.After(bound):
		return fmt.Errorf("devpg: %d connections of a pool were not given back within %v of the test's end", pool.Stat().AcquiredConns(), bound)
	}
}
