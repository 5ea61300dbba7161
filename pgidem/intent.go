package pgidem

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// ReconcileOutcome is what a service says about a call that it was asked about.
type ReconcileOutcome int

// The outcomes.
const (
	// ReconcileUnknown: nobody can tell. The operation is parked. The zero value, so that forgetting to answer repeats nothing.
	ReconcileUnknown ReconcileOutcome = iota
	// ReconcileDone: the call has taken effect. [Reconciled].Value is recorded as the step's result.
	ReconcileDone
	// ReconcileAbsent: the call has not taken effect and can no longer do so. It is made again.
	ReconcileAbsent
)

// Reconciled is the answer of StepOpts.Reconcile. It is asked after the call's deadline, so a service that takes nothing after a
// request's own deadline can answer ReconcileAbsent from what it has recorded.
type Reconciled[T any] struct {
	Outcome ReconcileOutcome
	Value   T
}

// settleIntent finds out what became of a call that may have been made: done is true where its result is recorded now, and both
// are zero where the call has to be made again. cause is the call's own error, where it was made in this run.
func (f *foreignCall) settleIntent(ctx context.Context, left time.Duration, cause error) (done bool, _ error) {
	f.op.kept = true
	if f.reconcile == nil {
		return false, f.park(ctx, "its call may have been made and was interrupted", nil)
	}
	if err := f.op.call.awaitDeadline(ctx, left, cause); err != nil {
		return false, err
	}
	outcome, save, err := f.reconcile(ctx)
	switch {
	case failureOf(err) != nil: // the service has refused it for good
		f.op.doubt, f.op.begun = "", f.name
		return false, err
	case err != nil:
		return false, err
	case outcome == ReconcileDone:
		return true, f.record(ctx, save)
	case outcome == ReconcileAbsent:
		f.op.doubt = ""
		return false, nil
	}
	return false, f.park(ctx, "Reconcile does not know what became of the call", nil)
}

// park leaves the operation to an operator, because of the call of a step. Where no intent was committed for it, it is now: nobody may make the
// call again before somebody has decided, and whoever decides finds which step is in doubt.
func (f *foreignCall) park(ctx context.Context, what string, cause error) error {
	op := f.op
	why := &Failure{Code: "step", Message: "step " + quote(f.name) + ": " + what, Details: map[string]string{"step": f.name}}
	if cause != nil {
		why.Details["error"] = cause.Error()
	}
	why = failureOf(Permanent(why)) // which makes valid UTF-8 of it
	text, err := op.client().encodeParked(ctx, op.Key(), why)
	if err != nil { // the sealer does not work, or the text is too long; better short than lost
		text = []byte(`{"message":"why could not be saved"}`)
	}
	intended := f.at == placeIntended
	w := write{state: stateParked, queue: func(b *pgx.Batch, token string) {
		if !intended {
			b.Queue(dbsqlc.StepIntend, op.Key().Scope, op.Key().ID, f.name, op.script.count+1, pgtype.Interval{}, op.state, token)
		}
		b.Queue(dbsqlc.OperationPark, text, op.Key().Scope, op.Key().ID, token)
	}}
	err = op.write(ctx, w)
	switch {
	case err == nil:
		op.stopped = op.call.parkedError(why)
	case op.lost != nil:
		return op.lost
	default:
		op.stopped = op.unwritten(err, "the operation must be parked, because of "+why.Message+"; that could not be committed yet, and is tried on")
		op.carried = func(ctx context.Context) bool {
			if err := op.writeUntil(ctx, time.Now(), w); err != nil && op.lost == nil {
				return false
			}
			op.client().registry.leave(op.running)
			return true
		}
	}
	if cause != nil {
		op.stopped = &causedError{op.stopped, asTransient(cause)}
	}
	return op.stopped
}

// causedError lets the caller find both what became of the operation and the error of its own function.
type causedError struct {
	error
	cause error
}

func (c *causedError) Unwrap() []error { return []error{c.error, c.cause} }

// parkedError says why an operation is parked.
func (e *execution) parkedError(why *Failure) error {
	return &Error{Key: e.key, Kind: ErrParked, Reason: why.Message + "; an operator must settle, resume or release it"}
}

// parked is the same as it was saved. What cannot be opened is parked all the same.
func (e *execution) parked(ctx context.Context, saved []byte) error {
	why, err := e.client.decodeParked(ctx, e.key, saved)
	if err != nil {
		return &Error{Key: e.key, Kind: ErrParked, Reason: "an operator must settle, resume or release it; why it is parked cannot be read", Cause: err}
	}
	return e.parkedError(why)
}

// encodeParked and decodeParked keep the reason as failures are kept, and sealed like them: it may quote an answer.
func (c *Client) encodeParked(ctx context.Context, key Key, why *Failure) ([]byte, error) {
	text, err := json.Marshal(why)
	if err != nil {
		return nil, err
	}
	return c.seal(ctx, key, PartParked, text)
}

func (c *Client) decodeParked(ctx context.Context, key Key, saved []byte) (*Failure, error) {
	text, err := c.open(ctx, key, PartParked, saved)
	if err != nil {
		return nil, err
	}
	why := new(Failure)
	return why, errors.Join(json.Unmarshal(text, why))
}
