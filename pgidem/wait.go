package pgidem

import (
	"context"
	"math"
	"strconv"
	"time"
)

// deadlineMargin is how long before a deadline of the caller's context the server is no longer asked to wait: a
// context that ends while a query runs costs the connection.
const deadlineMargin = 25 * time.Millisecond

// claimWaiting waits in the server for a lock that somebody else holds. A slot is taken first, so that the callers of
// hot keys cannot take every connection from the callers of other keys.
func (e *execution) claimWaiting(ctx context.Context) (*claim, error) {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= deadlineMargin {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	timer := time.NewTimer(time.Until(e.waitUntil))
	defer timer.Stop()
	select {
	case e.client.waiting <- struct{}{}:
		defer func() { <-e.client.waiting }()
	case <-timer.C:
		return nil, e.inProgress("somebody else holds it, and Config.WaitingConns callers wait already", nil)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	return e.claim(ctx, e.waitUntil)
}

// lockTimeout is how long the server may let this caller wait, in the form of the setting lock_timeout.
func (e *execution) lockTimeout(ctx context.Context, until time.Time) string {
	return lockTimeoutSetting(ctx, min(e.client.config.LockTimeout, time.Until(until)))
}

// lockTimeoutSetting spells a bound as the setting wants it. A deadline of ctx is turned into it too.
func lockTimeoutSetting(ctx context.Context, bound time.Duration) string {
	if deadline, ok := ctx.Deadline(); ok {
		bound = min(bound, time.Until(deadline)-deadlineMargin)
	}
	return strconv.FormatInt(min(max(1, bound.Milliseconds()), math.MaxInt32), 10)
}
