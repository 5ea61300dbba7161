package devpg

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// prefix and keptPrefix begin the name of every database that we create; no other is ever touched.
	prefix     = "pgidem_test_"
	keptPrefix = "pgidem_kept_"
	// lockSpace is the upper half of a run's advisory lock, the run's ID the lower one. The library's own
	// locks live in other databases.
	lockSpace = 0x70676465 // "pgde"
	// pingEvery keeps the lock's connection from being dropped as idle on its way, and notices when it was.
	pingEvery = 15 * time.Second
)

// newRunID returns 32 random bits in hex: enough to tell the runs of one server apart, and the lower half of a lock's key.
func newRunID() string { return randomHex(4) }

func newPassword() string { return randomHex(16) }

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// run is one use of a server. Its advisory lock shows other runs on the same server that this one is alive; it is a
// session's lock, which goes away with its holder.
type run struct {
	id, url string
	conn    *pgx.Conn
	stop    context.CancelFunc
	done    sync.WaitGroup
}

// beginRun takes the lock of a new run and, on a lasting server, sweeps what dead ones have left: elsewhere that goes away
// with the server, many times faster than by dropping it.
func beginRun(ctx context.Context, url string, lasting bool) (*run, error) {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	r := &run{id: newRunID(), url: url, conn: conn}
	if err := r.lock(ctx); err != nil {
		return nil, errors.Join(err, conn.Close(context.WithoutCancel(ctx)))
	}
	if lasting {
		if err := sweep(ctx, conn); err != nil {
			return nil, errors.Join(fmt.Errorf("drop databases of runs that were killed: %w", err), conn.Close(context.WithoutCancel(ctx)))
		}
	}
	holdCtx, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.done.Go(func() { r.hold(holdCtx) })
	return r, nil
}

func (r *run) lock(ctx context.Context) error {
	id, err := hex.DecodeString(r.id)
	if err != nil {
		return err
	}
	var granted bool
	key := int64(lockSpace)<<32 | int64(binary.BigEndian.Uint32(id))
	if err := r.conn.QueryRow(ctx, "SELECT pg_try_advisory_lock($1)", key).Scan(&granted); err != nil {
		return fmt.Errorf("lock the run's ID: %w", err)
	}
	if !granted {
		return fmt.Errorf("another run has the ID %s: start again", r.id)
	}
	return nil
}

// hold keeps the lock until ctx ends, over a new connection where the old one breaks.
func (r *run) hold(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if r.conn.Ping(ctx) == nil {
			continue
		}
		// What fails here is tried again at the next tick; nobody could be told.
		if conn, err := pgx.Connect(ctx, r.url); err == nil {
			_ = r.conn.Close(ctx)
			r.conn = conn
			_ = r.lock(ctx)
		}
	}
}

// end gives the lock up. The run's databases are dropped before, or go away with the server.
func (r *run) end(ctx context.Context) error {
	r.stop()
	r.done.Wait()
	return r.conn.Close(ctx)
}

// drop drops all databases of the run, and whoever is still connected to them.
func (r *run) drop(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, r.url)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	names, err := list(ctx, conn, "SELECT datname FROM pg_database WHERE starts_with(datname, $1)", prefix+r.id+"_")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, drop(ctx, conn, name))
	}
	return errors.Join(errs...)
}
