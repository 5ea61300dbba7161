package pgidem

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// pingPatience is how long the server may take to answer a ping of the liveness connection.
const pingPatience = 5 * time.Second

// returnGrace is how long a client whose liveness connection was lost and is back takes nothing over: what has ended its connection, a crash
// of the server, a failover or a broken network, may have ended those of owners that are about to come back as well. The server's own
// start says too little of that: recovery may take longer than any grace, and the process that was started first outlives a crash of the others.
const returnGrace = 2 * time.Second

// instance is a client as the database knows it: a number that nobody else ever has, and the connection that holds the
// advisory lock of that number for as long as the client lives.
type instance struct {
	id         int64
	generation uint64
	conn       *pgconn.PgConn
}

// halves are the two keys of an instance's lock: pairs of integers are a space apart from the locks of keys.
func (in *instance) halves() (high, low int32) {
	return int32(in.id >> 32), int32(in.id) //nolint:gosec // The bits, not the number.
}

// liveness keeps the client's instance: one connection outside the pool, from the first operation of several steps on. When that
// connection breaks, the client looks dead to everybody; liveness makes a new instance, and the tagger tags with it what runs here.
type liveness struct {
	client *Client

	mu         sync.Mutex
	started    bool
	current    *instance     // nil while there is none
	generation uint64        // of the last instance that there was
	attempts   int           // to make one
	failure    error         // of the last attempt
	returned   time.Time     // when the last instance came that followed a loss, or attempts that had failed
	changed    chan struct{} // closed when something of these changes
	done       chan struct{} // closed when the keeper has ended
}

func newLiveness(c *Client) *liveness {
	return &liveness{client: c, changed: make(chan struct{}), done: make(chan struct{})}
}

// get returns the instance, nil while there is none.
func (l *liveness) get() *instance {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current
}

// justReturned reports that owners may be about to come back, as this client has.
func (l *liveness) justReturned() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.returned) < returnGrace
}

// ensure starts the keeper and waits for an instance, or for an attempt to make one that fails.
func (l *liveness) ensure(ctx context.Context) error {
	l.mu.Lock()
	if !l.started {
		l.started = true
		go l.keep() //nolint:gosec // It outlives the call: it is the client's.
	}
	before := l.attempts
	l.mu.Unlock()
	for {
		l.mu.Lock()
		current, attempts, failure, changed := l.current, l.attempts, l.failure, l.changed
		l.mu.Unlock()
		switch {
		case current != nil:
			return nil
		case attempts > before && failure != nil:
			return &Error{Kind: ErrUnavailable, Reason: "the liveness connection could not be opened; no operation of several steps can be claimed without it", Cause: failure}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ended waits until the liveness connection is closed, for which the client must be closed and nothing run on it.
func (l *liveness) ended(ctx context.Context) error {
	l.mu.Lock()
	started := l.started
	l.mu.Unlock()
	if !started {
		return nil
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseGrace)
	defer cancel()
	select {
	case <-l.done:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-l.done:
		return nil
	case <-bounded.Done():
		return fmt.Errorf("pgidem: Close: the liveness connection is not closed yet, because something is left to be saved: %w", context.Cause(ctx))
	}
}

func (l *liveness) publish(in *instance, attempted bool, failure error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if in != nil && l.current == nil && (in.generation > 1 || l.failure != nil) {
		l.returned = time.Now()
	}
	l.current = in
	l.failure = failure
	if attempted {
		l.attempts++
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// connect makes a new instance.
func (l *liveness) connect(ctx context.Context) (*instance, error) {
	ctx, cancel := context.WithTimeout(ctx, l.client.config.LockTimeout+pingPatience)
	defer cancel()
	conn, err := l.client.connectLiveness(ctx)
	if err != nil {
		return nil, err
	}
	var random [8]byte
	_, _ = rand.Read(random[:])
	in := &instance{id: int64(binary.BigEndian.Uint64(random[:])), conn: conn.PgConn()} //nolint:gosec // All 64 bits are wanted.
	if err := in.lock(ctx); err != nil {
		in.close()
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	in.generation = l.generation
	return in, nil
}

// lock opens the transaction that holds the instance's lock for as long as the connection lives. Its last statement is a SET: behind a
// SELECT an idle transaction may keep a snapshot, which holds vacuum back. The server must not end the transaction because it is
// idle or old, and must notice within seconds that this host has vanished.
func (in *instance) lock(ctx context.Context) error {
	high, low := in.halves()
	results, err := in.conn.Exec(ctx, fmt.Sprintf(`
		BEGIN ISOLATION LEVEL READ COMMITTED;
		SELECT pg_try_advisory_xact_lock(%d, %d);
		SELECT set_config(name, '0', true) FROM pg_catalog.pg_settings WHERE name = 'transaction_timeout';
		SET LOCAL tcp_keepalives_idle = 2; SET LOCAL tcp_keepalives_interval = 1; SET LOCAL tcp_keepalives_count = 3;
		SET LOCAL tcp_user_timeout = 5000;
		SET LOCAL application_name = 'pgidem liveness';
		SET LOCAL idle_in_transaction_session_timeout = 0`, high, low)).ReadAll()
	if err != nil {
		return err
	}
	if granted := results[1].Rows; len(granted) != 1 || string(granted[0][0]) != "t" {
		return errors.New("the lock of a number that was drawn at random is held by somebody else")
	}
	return nil
}

func (in *instance) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = in.conn.Close(ctx)
}

// connectLiveness opens the connection in the pool's way, or to LivenessDSN.
func (c *Client) connectLiveness(ctx context.Context) (*pgx.Conn, error) {
	if c.config.LivenessDSN == "" {
		return c.connect(ctx, withDeadlines)
	}
	config, err := pgx.ParseConfig(c.config.LivenessDSN)
	if err != nil {
		return nil, err
	}
	withDeadlines(config)
	return pgx.ConnectConfig(ctx, config)
}

// withDeadlines makes a wait that is given up leave the connection as it is. A cancel request, which a pool may be configured to send
// instead, could strike the ping behind it.
func withDeadlines(config *pgx.ConnConfig) {
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: conn.Conn()}
	}
}
