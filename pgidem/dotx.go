package pgidem

import (
	"context"
	"time"
)

// TxOpts are the options of one [DoTx] call. nil and the zero value mean the client's defaults.
type TxOpts struct {
	// Input is the request. Its JSON encoding is fingerprinted ([FingerprintOf]), so that the same key with another
	// request is refused. nil means no fingerprint, unless Fingerprint is set.
	Input any
	// Fingerprint is used instead of Input's where the caller digests the request itself ([NewFingerprint]).
	Fingerprint Fingerprint
	// TTL is how long the saved result answers. 0 means Config.TTL.
	TTL time.Duration
	// WaitBound is how long to wait for a key that somebody else runs. 0 means Config.WaitBound; NoWait not at all.
	WaitBound time.Duration
	// Retry says that the caller knows of an earlier try, for example from a redelivery flag. A settled key is then
	// answered in one round trip instead of two; a key that is not settled costs one more.
	Retry bool
}

// DoTx runs fn at most once for key: fn's writes through tx and its result are committed in one transaction, and every
// later call with the key gets the saved result without running fn. Calls that arrive while fn runs wait for it, in
// this process in memory, in another one for an advisory lock.
//
// An error of fn rolls everything back, is returned as it is, and leaves the key free: the next call runs fn again. An
// error marked by [Permanent] is saved instead, and returned here and later as [*Failure]. fn may be run several times
// before something is committed (serialization failures, deadlocks, a lost connection at COMMIT), so it must not have
// effects but through tx. Once fn has returned, its result is saved even when ctx has ended meanwhile. The transaction
// is READ COMMITTED; fn must not wait for another connection of the same pool, and must set search_path and the role
// back where it changes them.
//
// A panic and [runtime.Goexit] in fn roll back and go on.
//
// Besides fn's errors and ctx's cause it returns ErrInvalidKey, ErrInProgress, ErrKeyReused, ErrExpired, ErrParked, ErrNested,
// ErrUnknownOutcome, ErrResult, ErrTxEnded, ErrTxAborted, ErrTxConcurrent, ErrUnavailable, ErrReadOnly, ErrSchema,
// ErrLocks, ErrPooler, ErrClosed and ErrConfig. At most one opts is accepted.
func DoTx[T any](ctx context.Context, c *Client, key Key, fn func(ctx context.Context, tx Tx) (T, error), opts ...*TxOpts) (Result[T], error) {
	if c == nil || fn == nil || len(opts) > 1 {
		return Result[T]{}, &Error{Key: key, Kind: ErrConfig, Reason: "DoTx needs a client, a function and at most one TxOpts"}
	}
	var fresh encoded[T]
	run := func(ctx context.Context, tx Tx) ([]byte, error) {
		value, err := fn(ctx, tx)
		if err != nil {
			return nil, err
		}
		fresh, err = encodeResult(ctx, c, key, value)
		return fresh.saved, err
	}
	out, err := c.doTx(ctx, key, optionsOf(opts), run, fresh.opener(c, key), nil)
	return resultOf(ctx, c, key, out, err, fresh)
}

func optionsOf(opts []*TxOpts) TxOpts {
	if len(opts) == 0 || opts[0] == nil {
		return TxOpts{}
	}
	return *opts[0]
}

// function is the caller's, with its result encoded.
type function = func(context.Context, Tx) ([]byte, error)

// doTx is DoTx without its type parameter, and DoBatch with first.
func (c *Client) doTx(ctx context.Context, key Key, o TxOpts, run function, open opener, first *oneTrip) (outcome, error) {
	return c.call(ctx, key, o, open, func(e *execution) {
		e.run = run
		e.first = first
	})
}

// call is one call of an operation, from its key to its outcome. prepare says what kind of operation it is.
func (c *Client) call(ctx context.Context, key Key, o TxOpts, open opener, prepare func(*execution)) (outcome, error) {
	if err := key.validate(c.config.ValidateID); err != nil {
		return outcome{}, err
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return outcome{}, aboutKey(key, err)
	}
	defer end()
	held := heldBy(ctx)
	if held.holds(c, key) {
		return outcome{}, &Error{Key: key, Kind: ErrNested, Reason: "it would wait for itself; use the tx that it has"}
	}
	e, err := c.newExecution(key, o, nil)
	if err != nil {
		return outcome{}, err
	}
	prepare(e)
	if out, found, err := e.recall(ctx, open); found || err != nil {
		return out, err
	}
	out, err := e.ask(ctx, o.Retry, held)
	if err == nil {
		e.remember(ctx, out)
	}
	if e, ok := err.(*Error); ok && e.Key == (Key{}) { //nolint:errorlint // Straight from this package: Close's, which is about no key.
		err = aboutKey(key, err)
	}
	return out, err
}

// ask goes to the database, or waits for a caller in this process that does.
func (e *execution) ask(ctx context.Context, retry bool, held *heldKey) (outcome, error) {
	if err := e.client.probeOnce(ctx); err != nil {
		return outcome{}, aboutKey(e.key, err)
	}
	if retry {
		if out, settled, err := e.peek(ctx); settled || err != nil {
			return out, err
		}
	}
	if held != nil { // a wait in memory is one that the database's deadlock detection and lock_timeout do not see
		e.nested = true
		return e.settle(ctx)
	}
	return e.share(ctx)
}

// newExecution resolves the options against the client's defaults.
func (c *Client) newExecution(key Key, o TxOpts, run function) (*execution, error) {
	err := atLeast("TTL", &o.TTL, c.config.TTL, time.Microsecond)
	if err == nil && o.WaitBound != NoWait {
		bound := c.config.WaitBound
		if bound != NoWait || o.WaitBound != 0 {
			err = atLeast("WaitBound", &o.WaitBound, bound, 0)
		}
	}
	if err != nil {
		return nil, &Error{Key: key, Kind: ErrConfig, Cause: err}
	}
	if o.Fingerprint.IsZero() && o.Input != nil {
		if o.Fingerprint, err = FingerprintOf(o.Input); err != nil {
			return nil, &Error{Key: key, Kind: ErrConfig, Cause: err}
		}
	}
	return &execution{
		client: c, key: key, kind: kindTx, lock: key.lock(), fingerprint: o.Fingerprint, ttl: o.TTL,
		waitUntil: time.Now().Add(max(o.WaitBound, 0)), run: run, taken: func() {},
	}, nil
}
