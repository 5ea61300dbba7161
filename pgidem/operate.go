package pgidem

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// start begins a new operation behind a granted claim. The row is written in a round trip of its own, so that a claim whose answer is lost
// cannot land after somebody has found the key free.
func (e *execution) start(ctx context.Context, cl *claim) (outcome, error) {
	in := e.client.liveness.get()
	if in == nil {
		cl.rollback(ctx)
		return outcome{}, again{noOwner, nil}
	}
	op := e.newOp(cl.token, in)
	op.life = cl.token // as random, and as new with every life
	op.attempt = 1
	if e.steps.opts.StartsWithTx {
		op.first = cl
		return e.operate(ctx, op)
	}
	batch := new(pgx.Batch)
	op.queueStart(ctx, batch, cl, in)
	batch.Queue(commit)
	if err := e.commit(ctx, cl, batch); err != nil {
		e.client.registry.leave(op.running)
		return outcome{}, err
	}
	op.started = true
	e.client.claimed(op.running, in)
	return e.operate(ctx, op)
}

// queueStart queues the operation's row, and makes room for it where an expired one is there.
func (op *Op) queueStart(ctx context.Context, batch *pgx.Batch, cl *claim, in *instance) {
	e := op.call
	batch.Queue(dbsqlc.TxBound, e.lockTimeout(ctx, e.waitUntil)) // a mark's row is inserted without the lock
	if cl.row.found {
		batch.Queue(dbsqlc.KeyDropExpired, e.key.Scope, e.key.ID)
	}
	high, low := in.halves()
	batch.Queue(dbsqlc.OperationStart, e.key.Scope, e.key.ID, cl.token, cl.table, high, low, in.id, op.life,
		e.fingerprint.algorithm, e.fingerprint.digest)
	batch.Queue(dbsqlc.TxUnbound)
}

// operate runs the caller's function, and settles what has come of it. However the function is left, nothing of it stays behind.
func (e *execution) operate(ctx context.Context, op *Op) (out outcome, err error) {
	e.taken()
	op.script.begin(e.steps.opts.RemovedSteps)
	held, endHeld := e.client.functionContext(ctx, e.key)
	opCtx, cancel := context.WithCancelCause(held)
	op.onLoss(cancel)
	returned := false
	defer func() {
		if !returned { // a panic, or runtime.Goexit: released, and on it goes
			op.end(cancel)
			op.abandon(ctx)
		}
		cancel(nil)
		endHeld()
	}()
	result, err := e.runBody(opCtx, op)
	op.end(cancel)
	out, err = op.conclude(ctx, opCtx, result, err)
	returned = true
	return out, err
}

// runBody runs the caller's function within its time limit.
func (e *execution) runBody(ctx context.Context, op *Op) (savedLater, error) {
	if limit := e.steps.opts.Timeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("pgidem: DoOpts.Timeout (%v) is over: %w", limit, context.DeadlineExceeded))
		defer cancel()
	}
	return e.steps.body(ctx, op)
}

// onLoss says how to end the function's context when somebody else takes the operation over, which the tagger may have noticed already.
func (op *Op) onLoss(cancel context.CancelCauseFunc) {
	op.client().registry.onLoss(op.running, cancel)
}

// end closes the Op. A step that another goroutine still runs is cancelled and waited for: what it does must not overlap with what
// comes next.
func (op *Op) end(cancel context.CancelCauseFunc) {
	if !op.lock.TryLock() {
		misuse := op.misuse("the operation's function returned while another goroutine ran a step")
		cancel(misuse)
		op.lock.Lock()
		_ = op.fail(misuse)
	}
	defer op.lock.Unlock()
	op.ended = true
}

// conclude decides what becomes of an operation whose function has returned.
func (op *Op) conclude(ctx, opCtx context.Context, result savedLater, err error) (outcome, error) {
	if err == nil {
		err = op.failed // a function that goes on behind a failed step has nothing to save
	}
	switch {
	case op.finished != nil:
		op.client().registry.leave(op.running)
		return *op.finished, nil
	case op.lost != nil:
		return outcome{}, op.giveUp(ctx, nil)
	case op.stopped != nil:
		return outcome{}, op.giveUp(ctx, nil)
	case op.state == stateUndoing && op.failed != nil: // a step could not be had, and so not how to take it back
		return outcome{}, op.giveUp(ctx, op.failed)
	case op.state == stateUndoing:
		return op.undo(ctx, opCtx, err)
	}
	if failure := failureOf(err); failure != nil {
		if err := op.unfit(failure, err); err != nil {
			return outcome{}, op.giveUp(ctx, err)
		}
		return op.failFor(ctx, opCtx, failure, err)
	}
	if missing := op.script.unasked(); err == nil && missing != "" {
		err = op.unasked(missing)
	}
	if err != nil {
		return outcome{}, op.giveUp(ctx, err)
	}
	saved, err := result(ctx)
	if err != nil {
		return outcome{}, op.giveUp(ctx, err)
	}
	return op.finish(ctx, stateSucceeded, saved, nil)
}

// unfit says why an operation cannot fail for good in this run, whatever its function wants: something that it would have to be
// taken back behind is not known.
func (op *Op) unfit(failure *Failure, cause error) error {
	if op.doubt != "" {
		return &Error{
			Key: op.Key(), Kind: ErrUnknownOutcome, Cause: asTransient(cause),
			Reason: "the operation cannot fail for good before it is known what became of the call of step " + quote(op.doubt) + "; ask again with the same key",
		}
	}
	if missing := op.script.unasked(); missing != "" {
		return &Error{
			Key: op.Key(), Kind: ErrSteps,
			Reason: fmt.Sprintf("the function has failed for good (%.200s) without asking for step %q, which is recorded, so that nobody knows how to "+
				"take it back; ask for every recorded step before returning, or declare it in DoOpts.RemovedSteps if it is gone", failure.Error(), missing),
		}
	}
	return nil
}

// failFor ends an operation for good, behind its undos if it has some.
func (op *Op) failFor(ctx, opCtx context.Context, failure *Failure, cause error) (outcome, error) {
	if cl := op.first; cl != nil { // nothing was done in the claim's transaction, which can save it
		op.first = nil
		op.client().registry.leave(op.running)
		op.call.failure = failure
		return op.call.finishFresh(ctx, cl, stateFailed, nil)
	}
	if !op.started {
		_ = op.release(ctx, 0)
		op.call.failure = failure
		return outcome{}, again{saveFailure, cause}
	}
	text, err := op.client().encodeFailure(ctx, op.Key(), failure)
	if err != nil {
		op.call.failure = failure
		reason := op.call.unsaved("cannot be saved; the operation is released")
		op.call.failure = nil
		return outcome{}, op.giveUp(ctx, resultError(op.Key(), reason, err))
	}
	if len(op.undos) == 0 {
		op.failure, op.failureText = failure, text
		return op.finish(ctx, stateFailed, nil, text)
	}
	if err := op.beginUndo(ctx, failure, text); err != nil {
		return outcome{}, op.giveUp(ctx, err)
	}
	return op.undo(ctx, opCtx, nil)
}

// undo takes the steps back and ends the operation with its failure. err is what the function has returned meanwhile: why it has not
// asked for every step, if it has not.
func (op *Op) undo(ctx, opCtx context.Context, err error) (outcome, error) {
	if missing := op.script.unasked(); missing != "" {
		if err != nil && failureOf(err) == nil && !errors.Is(err, ErrUndoing) {
			return outcome{}, op.giveUp(ctx, err)
		}
		return outcome{}, op.giveUp(ctx, &Error{
			Key: op.Key(), Kind: ErrSteps, Cause: asTransient(err), Reason: "the operation is being undone, and its function has not asked for step " + quote(missing) +
				", so that nobody knows how to take it back; ask for every recorded step before returning",
		})
	}
	if err := op.undoAll(opCtx); err != nil {
		return outcome{}, op.giveUp(ctx, err)
	}
	return op.finish(ctx, stateFailed, nil, nil)
}

// finish saves the outcome in a commit of its own.
func (op *Op) finish(ctx context.Context, state string, result, failure []byte) (outcome, error) {
	e := op.call
	out := outcome{result: result, attempt: op.Attempt(), fingerprint: e.fingerprint, resumed: op.resumed}
	if state == stateFailed {
		out.failure, out.savedFailure = op.failure, op.failureText
	}
	if op.first != nil {
		cl := op.first
		op.first = nil
		e.client.registry.leave(op.running)
		out, err := e.finishFresh(ctx, cl, state, result)
		return out, err
	}
	err := op.write(ctx, write{state: state, queue: func(b *pgx.Batch, token string) {
		op.queueWithdraw(b, token)
		b.Queue(dbsqlc.OperationFinish, state, result, failure, interval(e.ttl), e.key.Scope, e.key.ID, op.state, token)
	}})
	if err != nil {
		return outcome{}, op.unfinished(ctx, err)
	}
	e.client.registry.leave(op.running)
	return out, nil
}

// unfinished is behind an outcome that could not be saved. Where that is in doubt, the whole decision is made again: the row may have
// the outcome, and is then made durable before anybody is told.
func (op *Op) unfinished(ctx context.Context, err error) error {
	var doubt unsettled
	if !errors.As(err, &doubt) {
		return op.giveUp(ctx, op.unwritten(err, "the outcome could not be saved; the operation is released"))
	}
	e := op.call
	e.unknown = doubt.error
	e.settleBy = time.Now().Add(2 * e.client.config.FinishBound)
	_ = op.release(ctx, 0)
	return again{takenOver, &Error{
		Key: e.key, Kind: ErrUnknownOutcome, Cause: doubt.error,
		Reason: "the outcome was sent, and could not be read since; ask again with the same key",
	}}
}

// finishFresh saves the outcome of an operation whose row was not committed yet, in its claim's transaction.
func (e *execution) finishFresh(ctx context.Context, cl *claim, state string, result []byte) (outcome, error) {
	out := outcome{result: result, attempt: 1, fingerprint: e.fingerprint}
	if state == stateFailed {
		text, err := e.client.encodeFailure(ctx, e.key, e.failure)
		if err != nil {
			cl.rollback(ctx)
			return outcome{}, resultError(e.key, e.unsaved("cannot be saved, and nothing was committed"), err)
		}
		out.failure, out.savedFailure = e.failure, text
	}
	in := e.client.liveness.get()
	if in == nil {
		cl.rollback(ctx)
		return outcome{}, again{noOwner, nil}
	}
	op := e.newOp(cl.token, in)
	op.life = cl.token
	defer e.client.registry.leave(op.running)
	batch := new(pgx.Batch)
	op.queueStart(ctx, batch, cl, in)
	batch.Queue(dbsqlc.OperationFinish, state, result, out.savedFailure, interval(e.ttl), e.key.Scope, e.key.ID, stateRunning, cl.token)
	batch.Queue(commit)
	if err := e.commit(ctx, cl, batch); err != nil {
		return outcome{}, err
	}
	return out, nil
}

// abandon is for a function that did not return. What FinishTx has committed stays.
func (op *Op) abandon(ctx context.Context) {
	if op.finished != nil {
		op.client().registry.leave(op.running)
		return
	}
	_ = op.giveUp(ctx, nil)
}

// giveUp lets the operation go, at its last recovery point, and returns what the caller is told.
func (op *Op) giveUp(ctx context.Context, err error) error {
	registry := op.client().registry
	switch {
	case op.lost != nil:
		registry.leave(op.running)
		return again{takenOver, op.lost}
	case op.carried != nil: // it leaves the registry when that is done
		op.client().janitor.add(op.carried)
		return op.stopped
	case op.stopped != nil:
		registry.leave(op.running)
		return op.stopped
	}
	forgiven := 0
	if errors.Is(err, ErrSteps) { // a deploy that does not fit must not park what is in order
		forgiven = 1
	}
	if lost := op.release(ctx, forgiven); lost != nil {
		return again{takenOver, lost}
	}
	return err
}

// release gives the row back, and returns an error only where somebody else has it. Where it does not come through, the janitor goes on
// trying, while whoever asks for the key in this process may take it over at once; but not where an intent must be taken back with it,
// which would park the operation.
func (op *Op) release(ctx context.Context, forgiven int) (lost error) {
	registry := op.client().registry
	if op.first != nil {
		op.first.rollback(ctx)
		op.first = nil
	}
	if !op.started {
		registry.leave(op.running)
		return nil
	}
	w := write{state: stateReleased, queue: func(b *pgx.Batch, token string) {
		op.queueWithdraw(b, token)
		if op.kept {
			b.Queue(dbsqlc.OperationRelease, forgiven, op.Key().Scope, op.Key().ID, token)
		} else {
			b.Queue(dbsqlc.OperationDrop, op.Key().Scope, op.Key().ID, token)
		}
	}}
	done := func(ctx context.Context) bool {
		if err := op.writeUntil(ctx, time.Now(), w); err != nil && op.lost == nil {
			return false
		}
		registry.leave(op.running)
		return true
	}
	if done(ctx) {
		return op.lost
	}
	if op.begun == "" {
		registry.leave(op.running)
	}
	op.client().janitor.add(done) // which has the operation from here on
	return nil
}

// queueWithdraw takes back the intent of a call that was not started.
func (op *Op) queueWithdraw(b *pgx.Batch, token string) {
	if op.begun != "" {
		b.Queue(dbsqlc.StepWithdraw, op.Key().Scope, op.Key().ID, op.begun, token)
	}
}

func (op *Op) unasked(name string) error {
	return &Error{
		Key: op.Key(), Kind: ErrSteps,
		Reason: "step " + quote(name) + " is recorded, and the function has ended without asking for it; declare it in DoOpts.RemovedSteps if it is gone",
	}
}

func (op *Op) misuse(format string, args ...any) error {
	return &Error{Key: op.Key(), Kind: ErrOpMisuse, Reason: fmt.Sprintf(format, args...)}
}

func quote(name string) string { return strconv.Quote(name) }
