package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// gateLock is the advisory lock behind the gate. The library's own locks are hashes and random numbers, never this small.
const gateLock = 1

// waitBound is how long the demo looks for two servers to get where it wants them.
const waitBound = 20 * time.Second

// gate is passed by every transaction that writes to a table, right after it has written: a lock that is free unless the
// demo holds it. So the demo can stop a server between its writes and COMMIT, and knows that it is there.
type gate struct {
	conn *pgx.Conn // the demo's own
}

func installGate(ctx context.Context, conn *pgx.Conn, table string) (gate, error) {
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		CREATE FUNCTION demo_gate() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_advisory_xact_lock_shared(%d);
			RETURN NULL;
		END $$;
		CREATE TRIGGER demo_gate AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION demo_gate();`, gateLock, table))
	if err != nil {
		return gate{}, fmt.Errorf("install the gate: %w", err)
	}
	return gate{conn}, nil
}

func (g gate) close(ctx context.Context) error {
	_, err := g.conn.Exec(ctx, "SELECT pg_advisory_lock($1)", gateLock)
	return err
}

func (g gate) open(ctx context.Context) error {
	_, err := g.conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", gateLock)
	return err
}

// await returns when one transaction that has written stands at the gate.
func (g gate) await(ctx context.Context) error {
	return g.ask(ctx, "nobody came to the gate", `SELECT EXISTS (
		SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE locktype = 'advisory' AND NOT granted AND objid = $1 AND classid = 0
		  AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		  AND backend_xid IS NOT NULL)`)
}

// awaitRetry returns when another transaction waits for the lock of a key.
func (g gate) awaitRetry(ctx context.Context) error {
	return g.ask(ctx, "no retry waited for the key", `SELECT EXISTS (
		SELECT FROM pg_locks
		WHERE locktype = 'advisory' AND NOT granted AND (objid <> $1 OR classid <> 0)
		  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
}

// ask puts a question about the gate's lock to the server until the answer is yes.
func (g gate) ask(ctx context.Context, otherwise, question string) error {
	return await(ctx, otherwise, func(ctx context.Context) (yes bool, err error) {
		err = g.conn.QueryRow(ctx, question, gateLock).Scan(&yes)
		return yes, err
	})
}

// await asks until the answer is yes.
func await(ctx context.Context, otherwise string, question func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, waitBound)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		yes, err := question(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", otherwise, err)
		}
		if yes {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s within %v", otherwise, waitBound)
		}
	}
}
