package pgidem

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

// acquire takes a connection from the pool, until bound at most (zero: as long as ctx allows).
func (e *execution) acquire(ctx context.Context, bound time.Time) (*pgxpool.Conn, error) {
	acquireCtx := ctx
	if !bound.IsZero() {
		var cancel context.CancelFunc
		acquireCtx, cancel = context.WithDeadline(ctx, bound)
		defer cancel()
	}
	conn, err := e.client.pool.Acquire(acquireCtx)
	switch {
	case err == nil:
		return conn, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case acquireCtx.Err() != nil && !e.nested:
		return nil, e.inProgress("somebody else held it, and then no connection became free", err)
	case acquireCtx.Err() != nil:
		return nil, &Error{
			Key: e.key, Kind: ErrUnavailable, Cause: err,
			Reason: "no connection became free for a call inside another operation; use its tx, or enlarge the pool",
		}
	default:
		return nil, &Error{Key: e.key, Kind: ErrUnavailable, Reason: "no connection from the pool", Cause: err}
	}
}

// acquireBound is how long a call that does not wait for its key may wait for a connection. One that is made from
// inside another operation has a connection already: where the whole pool is in such hands, waiting for one more would
// never end.
func (e *execution) acquireBound() time.Time {
	if !e.nested {
		return time.Time{}
	}
	bound := time.Now().Add(e.client.config.LockTimeout)
	if bound.Before(e.waitUntil) {
		return e.waitUntil
	}
	return bound
}

// boundNested is the same for calls that only read.
func (c *Client) boundNested(ctx context.Context) (context.Context, context.CancelFunc) {
	if heldBy(ctx) == nil {
		return ctx, func() {}
	}
	return context.WithTimeoutCause(ctx, c.config.LockTimeout, &Error{
		Kind: ErrUnavailable, Reason: "no answer within Config.LockTimeout for a call inside another operation",
	})
}
