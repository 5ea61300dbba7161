package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// gateLock is the advisory lock behind the gate. The library's own locks are hashes of keys and never this small.
const gateLock = 1

// waitBound is how long the demo looks for two servers to get where it wants them.
const waitBound = 20 * time.Second

// installGate makes every charge pass a gate right after it was written, inside its transaction: a lock that is free
// unless the demo holds it. So the demo can stop a server between its writes and COMMIT, and knows that it is there.
func installGate(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, fmt.Sprintf(`
		CREATE FUNCTION demo_gate() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_advisory_xact_lock_shared(%d);
			RETURN NULL;
		END $$;
		CREATE TRIGGER demo_gate AFTER INSERT ON charges FOR EACH ROW EXECUTE FUNCTION demo_gate();`, gateLock))
	if err != nil {
		return fmt.Errorf("install the gate: %w", err)
	}
	return nil
}

func (w *world) closeGate(ctx context.Context) error {
	_, err := w.conn.Exec(ctx, "SELECT pg_advisory_lock($1)", gateLock)
	return err
}

func (w *world) openGate(ctx context.Context) error {
	_, err := w.conn.Exec(ctx, "SELECT pg_advisory_unlock($1)", gateLock)
	return err
}

// awaitGate returns when one transaction that has written stands at the gate.
func (w *world) awaitGate(ctx context.Context) error {
	return w.await(ctx, "no charge came to the gate", `SELECT EXISTS (
		SELECT FROM pg_locks JOIN pg_stat_activity USING (pid)
		WHERE locktype = 'advisory' AND NOT granted AND objid = $1 AND classid = 0
		  AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
		  AND backend_xid IS NOT NULL)`)
}

// awaitRetry returns when another transaction waits for the lock of a key.
func (w *world) awaitRetry(ctx context.Context) error {
	return w.await(ctx, "no retry waited for the key", `SELECT EXISTS (
		SELECT FROM pg_locks
		WHERE locktype = 'advisory' AND NOT granted AND (objid <> $1 OR classid <> 0)
		  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`)
}

// await asks until the answer is yes.
func (w *world) await(ctx context.Context, otherwise, question string) error {
	ctx, cancel := context.WithTimeout(ctx, waitBound)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		var yes bool
		if err := w.conn.QueryRow(ctx, question, gateLock).Scan(&yes); err != nil {
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
