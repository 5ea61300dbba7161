package pgidem

import (
	"context"
	"reflect"
	"time"
)

// DoOpts are the options of one [Do] call. nil and the zero value mean the client's defaults.
type DoOpts struct {
	// Input is the request. Its JSON encoding is fingerprinted ([FingerprintOf]), so that the same key with another
	// request is refused. nil means no fingerprint, unless Fingerprint is set.
	Input any
	// Fingerprint is used instead of Input's where the caller digests the request itself ([NewFingerprint]).
	Fingerprint Fingerprint
	// TTL is how long the saved result answers. 0 means Config.TTL. An operation that is not finished never expires.
	TTL time.Duration
	// WaitBound is how long to wait for a key that somebody else runs. 0 means Config.WaitBound; NoWait not at all.
	WaitBound time.Duration
	// Retry says that the caller knows of an earlier try: a finished key is then answered in one round trip.
	Retry bool
	// StartsWithTx says that the function asks for a [StepTx] first. The claim then shares that step's transaction, which
	// saves a commit and two round trips. The transaction is open, and holds a connection of the pool, from the call of the function
	// to the end of that step.
	StartsWithTx bool
	// MaxAttempts is how many times the key may be claimed before the operation is parked. 0 means Config.MaxAttempts.
	MaxAttempts int
	// Timeout bounds one run of the function: its context ends then. 0 means no bound.
	Timeout time.Duration
	// RemovedSteps are steps that earlier releases have recorded and this one does not ask for any more.
	RemovedSteps []string
}

// Do runs fn, an operation of several steps, to its end once for key, and saves its result: every later call gets that without running fn.
// fn goes from step to step ([Step], [StepTx], [FinishTx]); each one's result is recorded, and a run that is interrupted, because its
// process died or because fn returned an error, is resumed by the next call with the key, in any process: fn is run again, and its
// recorded steps return what they have returned. Whatever fn does outside its steps is repeated. It must ask for its steps in the same order every time.
//
// An owner that has died is replaced at once, and one that lives is waited for, within the wait bound; see "Operations of several steps" in
// the package's documentation. An owner that another one has replaced records nothing more: its context ends with the cause ErrTakenOver, and
// the call goes on as a caller that waits.
//
// An error of fn releases the operation at its last recovery point, and is returned as it is. One that is marked by [Permanent] ends the
// operation: the steps that have an Undo are taken back, the last one first, and the failure is saved and returned here and later as [*Failure].
// What fn returns is saved as the result, unless [FinishTx] has saved it already.
//
// A panic and [runtime.Goexit] release the operation and go on.
//
// Besides fn's errors and ctx's cause it returns ErrInvalidKey, ErrInProgress, ErrKeyReused, ErrExpired, ErrParked, ErrNested, ErrTakenOver,
// ErrSteps, ErrUndoing, ErrOpMisuse, ErrUnknownOutcome, ErrResult, ErrUnavailable, ErrReadOnly, ErrSchema, ErrLocks, ErrPooler, ErrClosed and
// ErrConfig. At most one opts is accepted.
func Do[T any](ctx context.Context, c *Client, key Key, fn func(ctx context.Context, op *Op) (T, error), opts ...*DoOpts) (Result[T], error) {
	if c == nil || fn == nil || len(opts) > 1 {
		return Result[T]{}, &Error{Key: key, Kind: ErrConfig, Reason: "Do needs a client, a function and at most one DoOpts"}
	}
	var o DoOpts
	if len(opts) == 1 && opts[0] != nil {
		o = *opts[0]
	}
	var fresh encoded[T]
	call := &stepsCall{opts: o, result: reflect.TypeFor[T]()}
	call.body = func(ctx context.Context, op *Op) (func(context.Context) ([]byte, error), error) {
		value, err := fn(ctx, op)
		if finished, ok := op.fresh.(encoded[T]); ok {
			fresh = finished
		}
		return func(ctx context.Context) ([]byte, error) {
			fresh, err = encodeResult(ctx, c, key, value)
			return fresh.saved, err
		}, err
	}
	out, err := c.do(ctx, key, call, fresh.opener(c, key))
	return resultOf(ctx, c, key, out, err, fresh)
}

// stepsCall is what a call of Do has beside what every call has.
type stepsCall struct {
	opts   DoOpts
	result reflect.Type
	body   func(ctx context.Context, op *Op) (result savedLater, err error)
}

// do is Do without its type parameter.
func (c *Client) do(ctx context.Context, key Key, call *stepsCall, open opener) (outcome, error) {
	if err := atLeast("MaxAttempts", &call.opts.MaxAttempts, c.config.MaxAttempts, 1); err != nil {
		return outcome{}, &Error{Key: key, Kind: ErrConfig, Cause: err}
	}
	if err := atLeast("Timeout", &call.opts.Timeout, 0, 0); err != nil {
		return outcome{}, &Error{Key: key, Kind: ErrConfig, Cause: err}
	}
	o := TxOpts{
		Input: call.opts.Input, Fingerprint: call.opts.Fingerprint, TTL: call.opts.TTL,
		WaitBound: call.opts.WaitBound, Retry: call.opts.Retry,
	}
	return c.call(ctx, key, o, open, func(e *execution) {
		e.kind = kindSteps
		e.steps = call
	})
}
