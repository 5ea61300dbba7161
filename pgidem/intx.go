package pgidem

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// InTxOpts are the options of one [InTx] call. nil and the zero value mean the client's defaults.
type InTxOpts struct {
	// Input is the request. Its JSON encoding is fingerprinted ([FingerprintOf]), so that the same key with another
	// request is refused. nil means no fingerprint, unless Fingerprint is set.
	Input any
	// Fingerprint is used instead of Input's where the caller digests the request itself ([NewFingerprint]).
	Fingerprint Fingerprint
	// TTL is how long the saved result answers, counted from when fn has returned. 0 means Config.TTL.
	TTL time.Duration
}

// InTx runs fn at most once for key inside tx, a transaction that the caller has begun and will end: that of a queue
// worker or a batch, for example. fn writes through the same tx. Its writes and its result become real, together, with
// the caller's COMMIT and not before: acknowledge a result only then. When the answer to that COMMIT is lost, run the
// transaction again with the same key: it replays, or runs again where the first was rolled back.
//
// InTx does not wait for the key: where somebody else runs it, it returns [ErrInProgress] at once, because a caller that
// holds locks of its own must not wait for one more. So it does where fn has run and the key's row turns out to be
// another transaction's that has not ended, a mark of [MarkTx] for example, after 10 ms. Until the caller's
// transaction ends, others find the key in progress, and a DoTx with it on another connection waits.
//
// fn runs behind a savepoint, pgidem_operation; the name is reserved. When it returns an error, panics or calls
// [runtime.Goexit], what it wrote is rolled back, the key is free again and the caller's transaction can go on; the error is
// returned as it is. An error marked by [Permanent]
// is saved instead, and returned here and, after the caller's COMMIT, to every later call as [*Failure]. Where fn leaves
// rows open, nothing can be rolled back any more; the connection is then closed, and the whole transaction is lost. It is
// aborted where fn has ended that savepoint or one around it (tx, if that is one), and where the library's own statements
// fail while they are prepared, which comes before the savepoint; the error's text tells. A context that ends while a
// statement runs closes the connection, as everywhere in pgx.
//
// InTx raises synchronous_commit where it is off or local. A caller that lowers it again afterwards (SET LOCAL) gives G3 up.
//
// A deadlock (40P01) in fn or in the library's own statements is [ErrDeadlock]: the library cannot run the caller's
// transaction again. When one transaction uses several keys, use them in the same order everywhere.
//
// tx must be READ COMMITTED; the Tx of another operation is fine. It takes two round trips beside fn's, and one
// subtransaction; three and two unless tx is a *pgxpool.Tx or a Tx. Each key's advisory lock is held until the transaction
// ends: thousands of keys in one transaction fill the server's lock table (53200, max_locks_per_transaction). It does not
// probe the database, because that would need a second connection.
//
// Besides fn's errors and ctx's cause it returns ErrInvalidKey, ErrInProgress, ErrKeyReused, ErrExpired, ErrParked, ErrNested,
// ErrResult, ErrIsolation, ErrDeadlock, ErrTxEnded, ErrTxAborted, ErrTxConcurrent, ErrUnavailable, ErrReadOnly,
// ErrSchema, ErrClosed and ErrConfig. At most one opts is accepted.
func InTx[T any](ctx context.Context, c *Client, tx pgx.Tx, key Key, fn func(ctx context.Context) (T, error), opts ...*InTxOpts) (Result[T], error) {
	if c == nil || tx == nil || fn == nil || len(opts) > 1 {
		return Result[T]{}, &Error{Key: key, Kind: ErrConfig, Reason: "InTx needs a client, a transaction, a function and at most one InTxOpts"}
	}
	var fresh encoded[T]
	run := func(ctx context.Context, _ Tx) ([]byte, error) {
		value, err := fn(ctx)
		if err != nil {
			return nil, err
		}
		fresh, err = encodeResult(ctx, c, key, value)
		return fresh.saved, err
	}
	var o InTxOpts
	if len(opts) == 1 && opts[0] != nil {
		o = *opts[0]
	}
	out, err := c.inTx(ctx, tx, key, o, run)
	return resultOf(ctx, c, key, out, err, fresh)
}

// inTx is InTx without its type parameter.
func (c *Client) inTx(ctx context.Context, tx pgx.Tx, key Key, o InTxOpts, run function) (outcome, error) {
	if err := key.validate(c.config.ValidateID); err != nil {
		return outcome{}, err
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return outcome{}, aboutKey(key, err)
	}
	defer end()
	if heldBy(ctx).holds(c, key) {
		return outcome{}, &Error{Key: key, Kind: ErrNested, Reason: "it is this operation's own key"}
	}
	op, err := c.newExecution(key, TxOpts{Input: o.Input, Fingerprint: o.Fingerprint, TTL: o.TTL, WaitBound: NoWait}, run)
	if err != nil {
		return outcome{}, err
	}
	in := &inTx{op: op, callersTx: newCallersTx(tx, key, c.config.FinishBound)}
	if err := in.usable(ctx); err != nil {
		return outcome{}, err
	}
	if ctx.Err() != nil {
		return outcome{}, context.Cause(ctx)
	}
	return in.settle(ctx)
}
