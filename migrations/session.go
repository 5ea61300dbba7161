package migrations

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// lockID spells "pgidem" and the number of this lock. Advisory locks are per database: two schemas of one
	// database migrate one after the other, which costs nothing.
	lockID int64 = 0x706769_64656d_0001
	// lockPoll is how often a waiting Up asks. It asks instead of blocking in the lock, because a blocked statement
	// holds a snapshot, for which a CREATE INDEX CONCURRENTLY under the lock would wait: a deadlock.
	lockPoll = 100 * time.Millisecond
	// tableLockTimeout bounds the wait for a table's lock, behind which every other user of the table queues.
	tableLockTimeout = "5s"
	// unlockTimeout bounds the cleanup, which runs even when the caller's context has ended.
	unlockTimeout = 5 * time.Second
)

// session is one connection of the pool that holds the migration lock. Everything happens on it, goose's work too:
// a pool of one connection is enough, and many callers of Up cannot starve each other of connections.
type session struct {
	conn *stdlib.Conn
	// lockTimeout is the connection's own setting, restored before the pool gets the connection back.
	lockTimeout string
}

// withSession runs f under the migration lock.
func withSession(ctx context.Context, pool *pgxpool.Pool, f func(*session) error) (err error) {
	conn, err := stdlib.GetPoolConnector(pool).Connect(ctx)
	if err != nil {
		return fmt.Errorf("get a connection from the pool: %w", err)
	}
	s := &session{conn: conn.(*stdlib.Conn)}
	// Gives the connection back; the pool is the caller's and stays open.
	defer func() { err = errors.Join(err, s.conn.Close()) }()
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.unlock(ctx)) }()
	if s.lockTimeout == "0" {
		if _, err := s.pgx().Exec(ctx, `SELECT set_config('lock_timeout', $1, false)`, tableLockTimeout); err != nil {
			return fmt.Errorf("bound the waits for table locks: %w", err)
		}
	}
	return f(s)
}

func (s *session) pgx() *pgx.Conn { return s.conn.Conn() }

// lock waits until no other migration runs.
func (s *session) lock(ctx context.Context) error {
	const sql = `SELECT pg_try_advisory_lock($1), current_setting('lock_timeout')`
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for {
		var granted bool
		if err := s.pgx().QueryRow(ctx, sql, lockID).Scan(&granted, &s.lockTimeout); err != nil {
			return fmt.Errorf("take the migration lock: %w", err)
		}
		if granted {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("another migration is running and did not end in time: %w", ctx.Err())
		case <-poll.C:
		}
	}
}

// unlock gives the lock and the connection's setting back. A connection on which that fails is closed:
// the server frees the lock with it, and the pool never hands it out again.
func (s *session) unlock(ctx context.Context) error {
	const sql = `SELECT pg_advisory_unlock($1), set_config('lock_timeout', $2, false)`
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockTimeout)
	defer cancel()
	var held bool
	var restored string
	err := s.pgx().QueryRow(ctx, sql, lockID, s.lockTimeout).Scan(&held, &restored)
	if err == nil && held {
		return nil
	}
	_ = s.pgx().Close(ctx)
	if err == nil {
		return errors.New("the migration lock was gone at the end: the connection leads through a transaction " +
			"pooler, which does not keep such locks; run migrations on a direct connection")
	}
	// What went before has succeeded or has its own error; the lock went with the connection.
	return nil
}

// openDB is the session's connection as the *sql.DB that goose asks for. Its Close leaves the connection open.
func (s *session) openDB() *sql.DB {
	db := sql.OpenDB(connector{lent{s.conn}})
	db.SetMaxOpenConns(1)
	return db
}

// connector knows one connection and gives it out again and again, one user at a time.
type connector struct{ conn driver.Conn }

func (c connector) Connect(context.Context) (driver.Conn, error) { return c.conn, nil }
func (c connector) Driver() driver.Driver                        { return stdlib.GetDefaultDriver() }

// lent is a connection that somebody else closes.
type lent struct{ *stdlib.Conn }

func (lent) Close() error { return nil }
