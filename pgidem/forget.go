package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// Forget deletes a finished key with its result, so that the next call runs the operation again: for answers that must
// not be kept, and for operators who know that a repetition is wanted. It waits for a caller that holds the key, within
// Config.WaitBound. Returns ErrNotFound where nothing is saved; ErrParked and ErrInProgress for an operation that is
// not finished, which is left as it is; and otherwise as [DoTx].
//
// Once Forget has returned, no call of this client answers from [Config].Cache what was forgotten. Other processes' own
// caches do not hear of it, and answer until their entries end: forget the key there too, bound them by
// Config.CacheMaxAge, share one cache, or use clients without one where keys are forgotten. What the cache has of the key
// is deleted whatever Forget returns once the key is claimed, ErrNotFound included; where the cache fails to, the error is
// ErrUnknownOutcome: call Forget again. A caller in another process that joins one whose answer is on its way, may still
// get that answer; and a lost batch of [DoBatch] that was settled may still be on its way itself, and finds the key free.
func (c *Client) Forget(ctx context.Context, key Key) error {
	if err := key.validate(c.config.ValidateID); err != nil {
		return err
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return aboutKey(key, err)
	}
	defer end()
	if heldBy(ctx).holds(c, key) {
		return &Error{Key: key, Kind: ErrNested, Reason: "an operation cannot forget its own key"}
	}
	e, err := c.newExecution(key, TxOpts{}, nil)
	if err != nil {
		return err
	}
	e.nested = heldBy(ctx) != nil
	cl, err := e.claimGranted(ctx)
	if err != nil {
		return err
	}
	err = e.forget(ctx, cl)
	// Behind COMMIT, so that nobody can read the row again after it; and also where COMMIT is in doubt, or an earlier
	// Forget has left only the cache to be done.
	if kept := e.uncache(ctx); kept != nil && (err == nil || errors.Is(err, ErrNotFound)) {
		err = &Error{Key: key, Kind: ErrUnknownOutcome, Reason: "nothing is saved any more, but Config.Cache may go on answering; call Forget again", Cause: kept}
	}
	return err
}

func (e *execution) forget(ctx context.Context, cl *claim) (err error) {
	defer cl.rollback(ctx)
	switch {
	case !cl.row.found:
		err = &Error{Key: e.key, Kind: ErrNotFound}
	case cl.row.State == stateParked:
		err = &Error{Key: e.key, Kind: ErrParked, Reason: "settle or release it instead"}
	case cl.row.State != stateSucceeded && cl.row.State != stateFailed && cl.row.State != stateTombstone:
		err = &Error{Key: e.key, Kind: ErrInProgress, Reason: "an operation that is " + cl.row.State + " cannot be forgotten", RetryAfter: time.Second}
	}
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.client.config.FinishBound)
	defer cancel()
	_, err = dbsqlc.New().KeyForget(bounded, cl.tx, dbsqlc.KeyForgetParams{Scope: e.key.Scope, ID: e.key.ID})
	if err != nil {
		if sqlState(err) == insufficientRights {
			return schemaError(e.key, err)
		}
		return &Error{Key: e.key, Kind: ErrUnavailable, Reason: "it could not be deleted", Cause: err} // COMMIT was not sent
	}
	if err := cl.tx.Commit(bounded); err != nil {
		return &Error{Key: e.key, Kind: ErrUnknownOutcome, Reason: "it may or may not be forgotten; call Forget again", Cause: err}
	}
	return nil
}

// claimGranted claims until the lock is granted, within the wait bound.
func (e *execution) claimGranted(ctx context.Context) (*claim, error) {
	wait := false
	for {
		cl, err := e.claimFor(ctx, wait)
		if err == nil {
			if cl.granted {
				return cl, nil
			}
			cl.rollback(ctx)
			err = again{busy, nil}
		}
		a, more := err.(again) //nolint:errorlint // A signal, never wrapped.
		if !more {
			return nil, err
		}
		if err := e.next(ctx, a); err != nil {
			return nil, err
		}
		wait = a.why == busy
	}
}
