package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// DefaultReconcileTimeout bounds one call of a step that can be reconciled and sets no bound of its own: whoever asks about a call must know when
// it cannot take effect any more.
const DefaultReconcileTimeout = 30 * time.Second

// Unknown marks an error of a [Step] after which nobody knows whether the call has taken effect, a timeout for example. The call
// is not repeated before that is known: StepOpts.Reconcile is asked in the next attempt; without it the operation is
// parked. Unknown(nil) is nil.
func Unknown(err error) error {
	if err == nil {
		return nil
	}
	return &unknownError{err}
}

type unknownError struct{ err error }

func (u *unknownError) Error() string { return u.err.Error() }
func (u *unknownError) Unwrap() error { return u.err }

// foreignCall is a step that calls something outside the database.
type foreignCall struct {
	*step
	timeout    time.Duration
	atMostOnce bool
	retry      func(try int, err error) (time.Duration, bool)
	fn         func(ctx context.Context) (save savedLater, err error)
	reconcile  func(ctx context.Context) (ReconcileOutcome, savedLater, error)
}

// savedLater encodes a result.
type savedLater = func(context.Context) ([]byte, error)

// intends reports whether an intent is committed before the call.
func (f *foreignCall) intends() bool { return f.atMostOnce || f.reconcile != nil }

// run calls until there is a result, and records it.
func (f *foreignCall) run(ctx context.Context) error {
	if f.reconcile != nil && f.timeout == 0 {
		f.timeout = DefaultReconcileTimeout
	}
	if f.at == placeIntended {
		f.op.doubt = f.name
		if done, err := f.settleIntent(ctx, f.op.script.left(f.row), nil); done || err != nil {
			return err
		}
	}
	for try := 1; ; try++ {
		deadline := time.Now().Add(f.timeout) // before the intent is sent: whoever asks about the call waits until after it
		if err := f.intend(ctx); err != nil {
			return err
		}
		save, err := f.callOnce(ctx, deadline)
		if err == nil {
			return f.record(ctx, save)
		}
		wait, again, err := f.judge(ctx, try, err)
		if !again {
			return err
		}
		if gone := sleep(ctx, wait); gone != nil {
			return gone
		}
		if f.reconcile == nil {
			continue
		}
		if done, err := f.settleIntent(ctx, time.Until(deadline), err); done || err != nil {
			return err
		}
	}
}

// callOnce calls fn within the step's time limit.
func (f *foreignCall) callOnce(ctx context.Context, deadline time.Time) (savedLater, error) {
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case f.reconcile == nil: // nobody will ask about the call by its deadline, so that it has all its time
		deadline = time.Now().Add(f.timeout)
	case !time.Now().Before(deadline):
		return nil, f.op.unwritten(nil, "committing the intent of step "+quote(f.name)+" took longer than its call may (StepOpts.Timeout), and the call was not made")
	}
	f.op.begun = ""
	f.op.kept = true
	if f.intends() {
		f.op.doubt = f.name
	}
	if f.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	return f.fn(ctx)
}

// judge says what an error of the call means.
func (f *foreignCall) judge(ctx context.Context, try int, err error) (wait time.Duration, again bool, _ error) {
	var unknown *unknownError
	switch {
	case f.op.lost != nil:
		return 0, false, f.op.lost
	case f.intends() && f.op.begun == f.name: // the call was not started
		return 0, false, err
	case failureOf(err) != nil: // it has not taken effect, so that nothing is left to ask about
		f.op.doubt = ""
		if f.intends() {
			f.op.begun = f.name
		}
		return 0, false, err
	case f.atMostOnce:
		return 0, false, f.park(ctx, "the call has failed and must not be repeated", err)
	case errors.As(err, &unknown):
		if f.reconcile == nil {
			return 0, false, f.park(ctx, "the outcome of the call is unknown", err)
		}
		return 0, false, err
	case f.retry == nil || ctx.Err() != nil:
		return 0, false, err
	}
	wait, again = f.retry(try, err)
	return wait, again, err
}

// intend commits that the call is about to be made. A further call renews the deadline.
func (f *foreignCall) intend(ctx context.Context) error {
	if !f.intends() {
		return nil
	}
	var timeout pgtype.Interval // NULL: nobody will be asked
	if f.reconcile != nil {
		timeout = interval(f.timeout)
	}
	if f.at != placeIntended {
		f.op.begun = f.name // before it is sent: it may be there although no answer comes
	}
	err := f.op.write(ctx, write{queue: func(b *pgx.Batch, token string) {
		b.Queue(dbsqlc.StepIntend, f.op.Key().Scope, f.op.Key().ID, f.name, f.op.script.count+1, timeout, f.op.state, token)
	}})
	if err != nil {
		return f.op.unwritten(err, "the intent of step "+quote(f.name)+" could not be committed, and its call was not made")
	}
	f.at = placeIntended
	return nil
}

// record writes the result of the call. From here on it must not get lost: what cannot be encoded parks the operation, and what
// cannot be written is kept until it can.
func (f *foreignCall) record(ctx context.Context, save savedLater) error {
	result, err := save(ctx)
	if err != nil {
		return f.park(ctx, "the result of the call cannot be saved", err)
	}
	return f.op.checkpoint(ctx, f.name, result)
}

// checkpoint records a step whose call has been made.
func (op *Op) checkpoint(ctx context.Context, name string, result []byte) error {
	record := func(b *pgx.Batch, token string) {
		b.Queue(dbsqlc.StepRecord, anyTable, op.Key().Scope, op.Key().ID, token, name, op.script.count+1, result, op.state)
	}
	err := op.write(ctx, write{queue: record, step: name})
	switch {
	case err == nil:
		op.script.count++
		op.doubt = ""
		return nil
	case op.lost != nil:
		return op.lost
	}
	return op.carry(name, record, err)
}

// carry leaves a result that could not be written to the janitor: its record and the release go together, never the release
// alone, which would let the next owner call again. Until then the operation stays this client's.
func (op *Op) carry(name string, record func(*pgx.Batch, string), cause error) error {
	op.stopped = &Error{
		Key: op.Key(), Kind: ErrUnknownOutcome, Cause: cause,
		Reason: "the result of step " + quote(name) + " could not be recorded; it is kept in this process until it can: ask again with the same key",
	}
	op.carried = func(ctx context.Context) bool {
		err := op.writeUntil(ctx, time.Now(), write{step: name, state: stateReleased, queue: func(b *pgx.Batch, token string) {
			if record != nil {
				record(b, token)
			}
			b.Queue(dbsqlc.OperationRelease, 0, op.Key().Scope, op.Key().ID, token)
		}})
		if errors.Is(err, errStillOurs) { // an earlier try has recorded the step, but was not answered
			record = nil
		}
		if err != nil && op.lost == nil {
			return false
		}
		op.client().registry.leave(op.running)
		return true
	}
	return op.stopped
}

// unwritten explains a write that did not come through.
func (op *Op) unwritten(err error, reason string) error {
	if op.lost != nil {
		return op.lost
	}
	return &Error{Key: op.Key(), Kind: ErrUnavailable, Reason: reason, Cause: err}
}

// sleep waits before a call is repeated.
func sleep(ctx context.Context, wait time.Duration) error {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
