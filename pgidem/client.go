package pgidem

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// Client runs operations on one database. It is safe for concurrent use; one per pool and process is right, because
// callers of one key wait for each other in memory only within one client. It starts no goroutine before the first operation of
// several steps; then three, which end with Close.
type Client struct {
	pool    *pgxpool.Pool
	config  Config
	flights flights
	guards  cacheGuards
	waiting chan struct{} // one slot per connection that may wait for a lock
	probed  probed

	// Operations of several steps.
	registry *registry
	liveness *liveness
	tagger   *tagger
	janitor  *janitor

	mu      sync.Mutex
	closed  bool
	running int
	idle    chan struct{}   // closed when the last running call of a closed client has returned
	stop    context.Context //nolint:containedctx // Not a call's: it ends the contexts of functions that outlast Close.
	cancel  context.CancelCauseFunc

	// The ways to take a key's lock. Tests of G1 take the locks away.
	tryLockSQL, lockSQL, saveFirstSQL string
}

// releaseGrace is how long Close waits for operations of several steps that it has cancelled: their release lets others go on
// at once, and saves what a foreign call has answered.
const releaseGrace = 2 * time.Second

// New returns a client on pool. It validates and starts nothing; the database is first asked by the first call
// (or by [Client.Probe]). The pool stays the caller's: close it after the client. Returns [ErrConfig].
func New(pool *pgxpool.Pool, config Config) (*Client, error) {
	if pool == nil {
		return nil, &Error{Kind: ErrConfig, Reason: "the pool is nil"}
	}
	config, err := config.withDefaults(pool.Config().MaxConns)
	if err != nil {
		return nil, err
	}
	c := &Client{
		pool:         pool,
		config:       config,
		flights:      flights{byKey: make(map[Key]*flight)},
		waiting:      make(chan struct{}, config.WaitingConns),
		probed:       probed{asking: make(chan struct{}, 1)},
		idle:         make(chan struct{}),
		tryLockSQL:   dbsqlc.KeyTryLock,
		lockSQL:      dbsqlc.KeyLock,
		saveFirstSQL: dbsqlc.KeySaveFirst,
	}
	c.registry, c.liveness, c.tagger, c.janitor = newRegistry(), newLiveness(c), newTagger(c), newJanitor(c)
	c.stop, c.cancel = context.WithCancelCause(context.Background())
	return c, nil
}

// Close refuses new calls with [ErrClosed] and waits for those that run. When ctx ends first, the contexts of their
// functions are cancelled with the cause ErrClosed, and an error says how many still run; Close may be called again
// to wait for them. Operations of several steps that end then are released, for which Close waits 2 s longer; the liveness
// connection is closed last. The pool is left open: close it after the client.
func (c *Client) Close(ctx context.Context) error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		if c.running == 0 {
			close(c.idle)
		}
	}
	c.mu.Unlock()
	select {
	case <-c.idle:
		c.cancel(ErrClosed)
		return c.liveness.ended(ctx)
	case <-ctx.Done():
	}
	c.cancel(&Error{Kind: ErrClosed, Reason: "Close did not wait any longer"})
	if c.registry.count() > 0 {
		select {
		case <-c.idle:
		case <-time.After(releaseGrace):
		}
	}
	c.mu.Lock()
	running := c.running
	c.mu.Unlock()
	if running == 0 {
		return c.liveness.ended(ctx)
	}
	return fmt.Errorf("pgidem: Close: %d calls still run: %w", running, context.Cause(ctx))
}

// begin admits a call unless the client is closed. The call's context ends also when Close does not wait any longer;
// end is the call's end.
func (c *Client) begin(ctx context.Context) (call context.Context, end func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	inside := heldBy(ctx).of(c) && c.stop.Err() == nil // Close waits for an operation, so also for what it needs
	if c.closed && !inside {
		return nil, nil, &Error{Kind: ErrClosed}
	}
	c.running++
	call, cancel := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(c.stop, func() { cancel(context.Cause(c.stop)) })
	return call, func() {
		unlink()
		cancel(nil)
		c.leave()
	}, nil
}

func (c *Client) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running--
	if c.closed && c.running == 0 {
		close(c.idle)
	}
}
