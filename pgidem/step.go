package pgidem

import (
	"context"
	"fmt"
	"time"
)

// StepOpts are the options of one step. nil and the zero value mean: no limits, called again after a crash, nothing to undo.
// AtMostOnce, Reconcile, Retry and Timeout are for [Step] alone.
type StepOpts[T any] struct {
	// Timeout bounds one call of the step's function. 0 means no bound; with Reconcile, DefaultReconcileTimeout (30 s).
	Timeout time.Duration
	// AtMostOnce commits an intent before the call. A call that is interrupted, or that returns an error which is not
	// Permanent, is never repeated: the operation is parked, and an operator has to find out ([SettleStep], [Client.Release]).
	AtMostOnce bool
	// Reconcile asks the called service what has become of a call whose outcome is not known, by the call's key. An intent and the
	// call's deadline are committed before the call; Reconcile is asked when the deadline is over, and only ReconcileAbsent
	// calls again, with the same key. See [Reconciled].
	Reconcile func(ctx context.Context, s StepContext) (Reconciled[T], error)
	// Retry says whether to call again in place after the try-th call (from 1) has returned a transient error, and how long to wait
	// before. nil never does: the error goes to the operation's function. With Reconcile, that is asked before each further call, and
	// so not before the deadline of the one before: set a Timeout well below the wait bound.
	Retry func(try int, err error) (wait time.Duration, again bool)
	// Undo takes the step back when the operation fails for good behind it: a call like a step's, at least once, with a key of
	// its own. A call that was interrupted or has returned an error has no record, and is not taken back: return Permanent behind it
	// only where it has definitely not taken effect, or set Reconcile. Of Undo and UndoTx one may be set.
	Undo func(ctx context.Context, s StepContext, result T) error
	// UndoTx is the same in one transaction, which also records it.
	UndoTx func(ctx context.Context, tx Tx, result T) error
	// FormerNames are names under which earlier releases recorded the step, the oldest first. The call's key goes on being
	// derived from that one.
	FormerNames []string
	// TreatAsDone says what the step's result is in operations that an earlier release has taken past it: one in which later
	// steps are recorded and this one is not. It is not run there, nor undone.
	TreatAsDone *T
}

// StepContext tells a step's function where it stands.
type StepContext struct {
	op      *Op
	name    string
	keyName string
}

// Key is the idempotency key to send along with the step's call: the same on every attempt of the operation, also after a
// release or a takeover, and another one for every other step, operation, and life of the operation's key. It is a UUID.
func (s StepContext) Key() string { return s.op.downstream(s.keyName) }

// Name is the step's name.
func (s StepContext) Name() string { return s.name }

// Attempt is how many times the operation's key was claimed, this run included.
func (s StepContext) Attempt() int { return s.op.Attempt() }

// Step runs fn, which calls something outside the database, and records its result. A step that is recorded never runs again: its
// result is returned. Where the process dies, or the connection is lost, between the call and its record, fn runs
// again, unless StepOpts say otherwise; the service called must recognise [StepContext.Key] for the effect to happen once.
//
// An error of fn is returned as it is, and no further step of this run is admitted: return it from the operation's function. It is
// transient (the operation is released, and a retry calls again) unless marked by [Permanent], which fails the operation, or
// by [Unknown], which keeps the call from being repeated before its outcome is known. A result that cannot be
// encoded parks the operation, because the call has happened.
//
// No connection is held while fn runs. Besides fn's errors and ctx's cause it returns ErrTakenOver, ErrParked, ErrSteps, ErrUndoing, ErrOpMisuse,
// ErrResult, ErrInProgress (a call whose deadline is not over), ErrUnavailable, and ErrUnknownOutcome where the result could not be recorded yet.
func Step[T any](ctx context.Context, op *Op, name string, fn func(ctx context.Context, s StepContext) (T, error), opts ...*StepOpts[T]) (T, error) {
	var value T
	o, wrong, err := stepOptions(op, name, fn == nil, opts)
	if err != nil {
		return value, err
	}
	s, err := op.begin(ctx, name, wrong, o.FormerNames, o.TreatAsDone != nil)
	if err != nil {
		return value, err
	}
	defer s.leave()
	switch s.at {
	case placeSkipped:
		return *o.TreatAsDone, nil
	case placeSaved:
		return replayStep(ctx, s, o)
	case placeNew, placeIntended:
	}
	if op.first != nil {
		return value, op.fail(op.misuse("step %q is the first: with StartsWithTx that must be a StepTx", name))
	}
	sc := StepContext{op, s.name, s.keyName}
	encode := func(ctx context.Context, v T) ([]byte, error) {
		fresh, err := encodePart(ctx, op.client(), op.Key(), partStep(s.name), v)
		value = fresh.value
		return fresh.saved, err
	}
	call := foreignCall{step: s, timeout: o.Timeout, atMostOnce: o.AtMostOnce, retry: o.Retry}
	call.fn = func(ctx context.Context) (save func(context.Context) ([]byte, error), err error) {
		v, err := fn(ctx, sc)
		return func(ctx context.Context) ([]byte, error) { return encode(ctx, v) }, err
	}
	if o.Reconcile != nil {
		call.reconcile = func(ctx context.Context) (ReconcileOutcome, func(context.Context) ([]byte, error), error) {
			r, err := o.Reconcile(ctx, sc)
			return r.Outcome, func(ctx context.Context) ([]byte, error) { return encode(ctx, r.Value) }, err
		}
	}
	s.inside = true
	err = call.run(ctx)
	s.inside = false
	if err != nil {
		var none T
		return none, op.fail(err)
	}
	registerUndo(s, o, value)
	return value, nil
}

// stepOptions says in wrong what contradicts itself.
func stepOptions[T any](op *Op, name string, noFunction bool, opts []*StepOpts[T]) (o StepOpts[T], wrong string, err error) {
	if op == nil {
		return o, "", &Error{Kind: ErrOpMisuse, Reason: "a step needs the Op that the operation's function was given"}
	}
	if len(opts) > 0 && opts[0] != nil {
		o = *opts[0]
	}
	switch {
	case noFunction, len(opts) > 1:
		wrong = "needs a function and at most one StepOpts"
	case o.AtMostOnce && o.Reconcile != nil:
		wrong = "of AtMostOnce and Reconcile one can be set"
	case o.AtMostOnce && o.Retry != nil:
		wrong = "AtMostOnce leaves nothing to Retry"
	case o.Undo != nil && o.UndoTx != nil:
		wrong = "of Undo and UndoTx one can be set"
	case o.Timeout < 0:
		wrong = fmt.Sprintf("Timeout is %v", o.Timeout)
	default:
		return o, "", nil
	}
	return o, fmt.Sprintf("step %q: %s", name, wrong), nil
}

// replayStep returns what a recorded step has returned.
func replayStep[T any](ctx context.Context, s *step, o StepOpts[T]) (T, error) {
	value, err := decodePart[T](ctx, s.op.client(), s.op.Key(), partStep(s.row.Name), s.row.Result)
	if err != nil {
		if o.Undo != nil || o.UndoTx != nil { // it must not be passed over where the function fails for good because of that
			s.op.undos = append(s.op.undos, undo{s.row.Name, func(context.Context, *Op) error { return err }})
		}
		return value, s.op.fail(err)
	}
	s.name = s.row.Name
	registerUndo(s, o, value)
	return value, nil
}
