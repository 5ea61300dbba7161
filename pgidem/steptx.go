package pgidem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// StepTx runs fn in a transaction, and records the step in it: fn's writes through tx and the record are committed together or not
// at all. A step that is recorded never runs again: its result is returned. What is said of fn and tx at [DoTx] holds here too:
// fn may run several times before something is committed, and [Tx.Last] saves a round trip.
//
// An error of fn rolls its transaction back, is returned as it is, and no further step of this run is admitted: return it from the
// operation's function. It is transient, and a retry resumes here, unless it is marked by [Permanent].
//
// Besides fn's errors and ctx's cause it returns what [Step] does but ErrInProgress and ErrParked, and ErrTxEnded, ErrTxAborted and ErrTxConcurrent as DoTx.
func StepTx[T any](ctx context.Context, op *Op, name string, fn func(ctx context.Context, tx Tx) (T, error), opts ...*StepOpts[T]) (T, error) {
	var none T
	o, wrong, err := stepOptions(op, name, fn == nil, opts)
	if err != nil {
		return none, err
	}
	if o.AtMostOnce || o.Reconcile != nil || o.Retry != nil || o.Timeout != 0 {
		wrong = "step " + quote(name) + ": AtMostOnce, Reconcile, Retry and Timeout are for Step; a transaction leaves no doubt"
	}
	s, err := op.begin(ctx, name, wrong, o.FormerNames, o.TreatAsDone != nil)
	if err != nil {
		return none, err
	}
	defer s.leave()
	switch s.at {
	case placeSkipped:
		return *o.TreatAsDone, nil
	case placeSaved:
		return replayStep(ctx, s, o)
	case placeIntended:
		return none, op.fail(s.wasForeign())
	case placeNew:
	}
	s.inside = true
	value, err := runTx(ctx, s, partStep(s.name), false, fn)
	s.inside = false
	if err != nil {
		return none, op.fail(err)
	}
	registerUndo(s, o, value.value)
	return value.value, nil
}

// FinishTx is the last step: it runs fn in a transaction which also saves what fn returns as the result of the whole operation. T must be the
// operation's. Behind it no step is admitted, and what the operation's function returns does not count.
//
// Errors are those of [StepTx].
func FinishTx[T any](ctx context.Context, op *Op, name string, fn func(ctx context.Context, tx Tx) (T, error)) (T, error) {
	var none T
	_, wrong, err := stepOptions[T](op, name, fn == nil, nil)
	if err != nil {
		return none, err
	}
	if of := reflect.TypeFor[T](); of != op.call.steps.result {
		wrong = fmt.Sprintf("FinishTx %q returns %v, but the operation's result is %v", name, of, op.call.steps.result)
	}
	s, err := op.begin(ctx, name, wrong, nil, false)
	if err != nil {
		return none, err
	}
	defer s.leave()
	if s.at == placeIntended {
		return none, op.fail(s.wasForeign())
	}
	if s.at == placeSaved { // it ended an operation that was not finished with it; an earlier release had more steps
		return none, op.fail(&Error{Key: op.Key(), Kind: ErrSteps, Reason: "step " + quote(name) + " is recorded, and not as the last"})
	}
	if missing := op.script.unasked(); missing != "" {
		return none, op.fail(op.unasked(missing))
	}
	s.inside = true
	value, err := runTx(ctx, s, PartResult, true, fn)
	s.inside = false
	if err != nil {
		return none, op.fail(err)
	}
	op.fresh = value
	return value.value, nil
}

// wasForeign is for a step that was a call in the release that has left its intent.
func (s *step) wasForeign() error {
	return &Error{Key: s.op.Key(), Kind: ErrSteps, Reason: "step " + quote(s.name) + " was a call that may have been made and is not settled; only Step can settle it"}
}

// runTx runs a step's function in its transaction and returns its result as every later run will read it.
func runTx[T any](ctx context.Context, s *step, part Part, last bool, fn func(context.Context, Tx) (T, error)) (encoded[T], error) {
	var fresh encoded[T]
	t := stepTx{step: s, last: last, run: func(ctx context.Context, tx Tx) ([]byte, error) {
		value, err := fn(ctx, tx)
		if err != nil {
			return nil, err
		}
		fresh, err = encodePart(ctx, s.op.client(), s.op.Key(), part, value)
		return fresh.saved, err
	}}
	saved, err := t.settle(ctx)
	if err != nil || bytes.Equal(saved, fresh.saved) {
		return fresh, err
	}
	fresh.saved = saved // of an earlier run of fn, whose COMMIT was not answered
	fresh.value, err = decodePart[T](ctx, s.op.client(), s.op.Key(), part, saved)
	return fresh, err
}

// stepTx is a step in its transaction.
type stepTx struct {
	*step
	last bool // FinishTx
	run  function

	startedBy *instance // whose number the operation's row has got, where this transaction inserts it

	reruns, rounds, broken int
}

// settle goes round until the step is recorded, or an error ends it.
func (t *stepTx) settle(ctx context.Context) (saved []byte, err error) {
	for {
		saved, err := t.turn(ctx)
		a, more := err.(again) //nolint:errorlint // A signal of this package, never wrapped.
		if !more {
			return saved, err
		}
		if a.why == unknownCommit {
			if saved, err := t.settleCommit(ctx, a.error); err != nil || saved != nil {
				return saved, err
			}
		}
		if err := t.next(ctx, a); err != nil {
			return nil, err
		}
	}
}

// next says whether there may be another turn, and waits before it where that helps.
func (t *stepTx) next(ctx context.Context, a again) error {
	switch a.why { //nolint:exhaustive // The others are not this transaction's.
	case rerun:
		if t.reruns++; t.reruns > t.op.client().config.Reruns {
			return a.error
		}
		return pause(ctx, t.reruns)
	case unknownCommit: // and nothing of it was found
		if t.rounds++; t.rounds > maxRounds {
			return t.op.unwritten(a.error, "no COMMIT of step "+quote(t.name)+" succeeded, and nothing of it was committed")
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	case noOwner:
		if t.broken++; t.broken > maxRounds {
			return t.op.call.ownerless(a.error)
		}
		if err := t.op.call.ensureOwner(ctx); err != nil {
			return err
		}
		return pause(ctx, t.broken+2) // the keeper may not have noticed yet
	case busy:
		if !t.op.started && !time.Now().Before(t.op.call.waitUntil) { // the key is not even this call's
			return t.op.call.inProgress("somebody else holds it", a.error)
		}
	}
	if t.broken++; t.broken > maxRounds {
		return t.op.unwritten(a.error, "the transaction of step "+quote(t.name)+" could not begin")
	}
	return pause(ctx, t.broken)
}

// turn runs the transaction once.
func (t *stepTx) turn(ctx context.Context) ([]byte, error) {
	if !t.op.started && t.op.first == nil { // an earlier turn has rolled the claim back
		if saved, err := t.claimAnew(ctx); err != nil || saved != nil {
			return saved, err
		}
	}
	cl := t.op.first
	if cl == nil {
		var err error
		if cl, err = t.begin(ctx); err != nil {
			return nil, err
		}
	}
	t.op.first = nil
	return t.execute(ctx, cl)
}

// begin opens the transaction: the key's lock, and the fence, which also holds the row.
func (t *stepTx) begin(ctx context.Context) (*claim, error) {
	e := t.op.call
	conn, err := e.client.pool.Acquire(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, again{brokenClaim, err}
	}
	cl := &claim{conn: conn, token: t.op.token(), bound: e.client.config.FinishBound}
	batch := new(pgx.Batch)
	batch.BeginTx(claimOptions)
	t.op.queueLock(ctx, batch, cl.token).QueryRow(func(row pgx.Row) error { return row.Scan(nil, nil, nil, nil, nil, &cl.table) })
	batch.Queue(dbsqlc.OperationFence, t.op.Key().Scope, t.op.Key().ID, t.op.state, cl.token)
	results := conn.SendBatch(ctx, batch)
	err = results.Close()
	cl.tx = results.Tx()
	switch {
	case err == nil:
		return cl, nil
	case isLostFence(err):
		err = t.op.lose()
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case isRerunnable(err):
		err = again{rerun, err}
	case isWaitOver(err):
		err = again{busy, err}
	default:
		err = again{brokenClaim, err}
	}
	cl.rollback(ctx)
	return nil, err
}

// execute runs the function and commits. However it is left, the transaction is rolled back unless it was committed.
func (t *stepTx) execute(ctx context.Context, cl *claim) ([]byte, error) {
	e := t.op.call
	tx := newTx(t.op.Key(), cl.tx)
	fnCtx, cancel := e.client.functionContext(ctx, t.op.Key())
	defer cl.rollback(ctx)
	defer func() { _, _ = tx.end(cancel) }()
	defer cancel()

	result, err := t.run(fnCtx, tx)
	last, misuse := tx.end(cancel)
	if err := e.functionError(cl, err, misuse); err != nil {
		e.failure = nil                                           // of one transaction; what becomes of the operation is decided when its function returns
		if a, more := err.(again); more && a.why == saveFailure { //nolint:errorlint // A signal of this package, never wrapped.
			return nil, a.error
		}
		return nil, err
	}
	return result, t.commit(ctx, cl, result, last)
}

// commit sends the statements that the function handed over, the record and COMMIT in one round trip.
func (t *stepTx) commit(ctx context.Context, cl *claim, result []byte, last []statement) error {
	op, e := t.op, t.op.call
	batch := new(pgx.Batch)
	if !op.started {
		in := e.client.liveness.get()
		if in == nil {
			return again{noOwner, errors.New("the liveness connection is lost")}
		}
		t.startedBy = in
		op.queueStart(ctx, batch, cl, in)
	}
	tagged := op.queueTag(batch, cl.token)
	for _, s := range last {
		batch.Queue(s.sql, s.args...)
	}
	at := dbsqlc.StepRecord
	if t.last {
		at = dbsqlc.StepFinish
		batch.Queue(at, cl.table, op.Key().Scope, op.Key().ID, cl.token, t.name, op.script.count+1, []byte{}, result, interval(e.ttl))
	} else {
		batch.Queue(at, cl.table, op.Key().Scope, op.Key().ID, cl.token, t.name, op.script.count+1, result, op.state)
	}
	batch.Queue(commit)
	bounded, cancel := e.client.bounded(ctx)
	defer cancel()
	if !op.started {
		e.tokens = append(e.tokens, cl.token)
	}
	failed, err := exchange(bounded, cl.conn, batch)
	if err != nil {
		return t.commitError(cl, err, failed == at, failed == dbsqlc.OperationStart || failed == dbsqlc.OwnerRetag || failed == dbsqlc.KeyDropExpired)
	}
	if !op.started {
		tagged = t.startedBy
	}
	if tagged != nil {
		e.client.claimed(op.running, tagged)
	}
	t.recorded(result)
	return nil
}

// recorded is behind a COMMIT that was answered, or found.
func (t *stepTx) recorded(result []byte) {
	t.op.started, t.op.kept = true, true
	t.op.script.count++
	if t.last {
		t.op.finished = &outcome{result: result, attempt: t.op.Attempt(), fingerprint: t.op.call.fingerprint, resumed: t.op.resumed}
	}
}

func (t *stepTx) commitError(cl *claim, err error, atRecord, atStart bool) error {
	e := t.op.call
	var early pgx.ErrPreprocessingBatch
	unsent := errors.As(err, &early)
	switch {
	case sqlState(err) == idleInTransactionTimeout:
		return e.aborted("the server ended it because the function left it idle (idle_in_transaction_session_timeout)", err)
	case !unsent && !cl.inTransaction() && !isDefiniteAbort(err) && !errors.Is(err, pgx.ErrTxCommitRollback):
		return again{unknownCommit, err}
	case isRerunnable(err):
		return again{rerun, err}
	case atStart && isTaken(err): // without locks another caller may have been faster
		return t.op.lose()
	case atStart && isWaitOver(err):
		return again{busy, err}
	case atStart && isOwnerless(err):
		return again{noOwner, err}
	case atStart && isFence(err, "claim"):
		return e.endedByHand(err)
	case atStart && isFence(err, "attempt"):
		return e.keySaveError(err)
	case atStart:
		return e.misplaced(err)
	case atRecord && isFence(err, "name"):
		return e.endedByHand(err)
	case atRecord && isFence(err, "scope"):
		return e.aborted("the function changed search_path or role, and the step would be recorded where nobody looks for it; set it back", err)
	case atRecord && isLostFence(err):
		return t.op.lose()
	case atRecord:
		return e.misplaced(err)
	}
	return err // of a statement that the function handed over, or of a constraint that was deferred to COMMIT
}
