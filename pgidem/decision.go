package pgidem

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// Decision is an operator's about one parked operation. It is written into the table idempotency_audit in the transaction that carries it out.
type Decision struct {
	// Claim is the claim token that the parked operation had when it was looked at ([Record].Claim). Where it has another one by now,
	// the decision was made about something else, and is refused.
	Claim string
	// Reason says why, for those who read the audit. It is required.
	Reason string
	// Actor says who, for those who read the audit: the role of the database is written down beside it. It is required.
	Actor string
}

// Settle ends a parked operation with value as its result, which every later call gets. Undo functions do not run. An operation that
// was being undone has failed already: settle it with [Client.SettleFailed].
//
// Returns ErrNotFound; ErrDecision where the operation is not parked, or not under that claim token; ErrResult, ErrUnavailable,
// ErrUnknownOutcome (decide again: it is refused if it was carried out), ErrSchema, ErrInvalidKey, ErrConfig, ErrClosed.
func Settle[T any](ctx context.Context, c *Client, key Key, d Decision, value T) error {
	fresh, err := encodeResult(ctx, c, key, value)
	if err != nil {
		return err
	}
	return c.decide(ctx, key, decision{Decision: d, action: "settle", result: fresh.saved})
}

// SettleFailed ends a parked operation with a failure, which every later call gets as [*Failure]. An operation that was being undone
// keeps the failure that it was undone for. Undo functions do not run. Returns what [Settle] does.
func (c *Client) SettleFailed(ctx context.Context, key Key, d Decision, failure *Failure) error {
	if failure == nil {
		return &Error{Key: key, Kind: ErrConfig, Reason: "SettleFailed needs a failure"}
	}
	text, err := c.encodeFailure(ctx, key, failureOf(Permanent(failure)))
	if err != nil {
		return resultError(key, "the failure cannot be saved; nothing was changed", err)
	}
	return c.decide(ctx, key, decision{Decision: d, action: "settle", failure: text})
}

// SettleStep records value as the result of a step whose outcome was unknown: the operator has found out that its call has
// happened. The operation is released, and the next call goes on behind that step. Returns what [Settle] does.
func SettleStep[T any](ctx context.Context, c *Client, key Key, d Decision, step string, value T) error {
	if wrong := new(script).validate(strings.TrimPrefix(step, undoPrefix)); wrong != "" {
		return &Error{Key: key, Kind: ErrConfig, Reason: wrong}
	}
	fresh, err := encodePart(ctx, c, key, partStep(step), value)
	if err != nil {
		return err
	}
	return c.decide(ctx, key, decision{Decision: d, action: "settle_step", step: step, result: fresh.saved})
}

// Resume releases a parked operation: the next call goes on from its recovery point, with all its attempts. A call whose outcome is not
// known is asked about again by StepOpts.Reconcile; where there is none it would park at once, so that Resume is refused with ErrDecision:
// use [SettleStep] or [Client.Release]. Returns what [Settle] does.
func (c *Client) Resume(ctx context.Context, key Key, d Decision) error {
	return c.decide(ctx, key, decision{Decision: d, action: "resume"})
}

// Release is Resume for an operator who vouches that the call whose outcome was unknown has not happened and will not: the next
// call with the key makes it again, with the same downstream key. Returns what [Settle] does.
func (c *Client) Release(ctx context.Context, key Key, d Decision) error {
	return c.decide(ctx, key, decision{Decision: d, action: "release"})
}

// decision is one that can be carried out.
type decision struct {
	Decision
	action  string
	step    string
	result  []byte
	failure []byte
}

func (d decision) invalid() string {
	var token pgtype.UUID
	switch {
	case len(d.Claim) != 36 || token.Scan(d.Claim) != nil:
		return "Decision.Claim is no claim token; Lookup shows it"
	case strings.TrimSpace(d.Reason) == "" || strings.TrimSpace(d.Actor) == "":
		return "Decision.Reason and Decision.Actor are required"
	case !utf8.ValidString(d.Reason+d.Actor) || strings.ContainsRune(d.Reason+d.Actor, 0):
		return "Decision.Reason and Decision.Actor must be UTF-8 without NUL"
	}
	return ""
}

// decide carries a decision out in one transaction, behind the key's lock.
func (c *Client) decide(ctx context.Context, key Key, d decision) error {
	if err := key.validate(c.config.ValidateID); err != nil {
		return err
	}
	if wrong := d.invalid(); wrong != "" {
		return &Error{Key: key, Kind: ErrConfig, Reason: wrong}
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return aboutKey(key, err)
	}
	defer end()
	if heldBy(ctx).holds(c, key) {
		return &Error{Key: key, Kind: ErrNested, Reason: "an operation cannot decide about itself"}
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
	defer cl.rollback(ctx)
	bounded, cancel := c.bounded(ctx)
	defer cancel()
	if err := d.carryOut(bounded, e, cl); err != nil {
		return e.decisionError(err)
	}
	switch err := cl.tx.Commit(bounded); {
	case err == nil:
		return nil
	case isDefiniteAbort(err), errors.Is(err, pgx.ErrTxCommitRollback):
		return e.decisionError(err)
	default:
		return &Error{Key: key, Kind: ErrUnknownOutcome, Reason: "the decision may or may not be carried out; look at the operation", Cause: err}
	}
}

func (d decision) carryOut(ctx context.Context, e *execution, cl *claim) error {
	q, tx := dbsqlc.New(), cl.tx
	scope, id := e.key.Scope, e.key.ID
	row, err := q.DecisionRead(ctx, tx, dbsqlc.DecisionReadParams{Scope: scope, ID: id})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return &Error{Key: e.key, Kind: ErrNotFound}
	case err != nil:
		return err
	case row.State != stateParked:
		return e.refuse("it is " + row.State + ", not parked")
	case formatUUID(row.Claim.Bytes) != strings.ToLower(d.Claim):
		return e.refuse("it has another claim token by now; look at it again")
	case d.result != nil && d.step == "" && row.Error != nil:
		return e.refuse("it was being undone, so that it cannot have succeeded; use SettleFailed")
	}
	claim := formatUUID(row.Claim.Bytes)
	switch d.action {
	case "settle":
		finished := stateSucceeded
		if d.failure != nil {
			finished = stateFailed
		}
		_, err = q.DecisionSettle(ctx, tx, dbsqlc.DecisionSettleParams{
			Finished: finished, Result: d.result, Error: d.failure, Ttl: interval(e.ttl), Scope: scope, ID: id, Claim: claim,
		})
	case "settle_step":
		err = d.settleStep(ctx, e, cl, claim)
	case "resume":
		if row.Error == nil { // an operation that is being undone makes no call any more
			err = d.resume(ctx, e, cl)
		}
	case "release":
		err = q.DecisionWithdraw(ctx, tx, dbsqlc.DecisionWithdrawParams{Scope: scope, ID: id})
	}
	if err == nil && d.action != "settle" {
		_, err = q.DecisionRelease(ctx, tx, dbsqlc.DecisionReleaseParams{Scope: scope, ID: id, Claim: claim})
	}
	if err != nil {
		return err
	}
	var step *string
	if d.step != "" {
		step = &d.step
	}
	_, err = q.DecisionAudit(ctx, tx, dbsqlc.DecisionAuditParams{
		Scope: scope, ID: id, Action: d.action, Claim: claim, Attempt: row.Attempt, Step: step, Actor: d.Actor, Reason: d.Reason,
	})
	return err
}

// settleStep records the step that is in doubt, or the one that the operation would come to next where no intent was committed.
func (d decision) settleStep(ctx context.Context, e *execution, cl *claim, claim string) error {
	intent, err := dbsqlc.New().DecisionIntent(ctx, cl.tx, dbsqlc.DecisionIntentParams{Scope: e.key.Scope, ID: e.key.ID})
	switch {
	case err == nil && intent.Name != d.step:
		return e.refuse("the step in doubt is " + quote(intent.Name))
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	_, err = dbsqlc.New().DecisionRecord(ctx, cl.tx, dbsqlc.DecisionRecordParams{
		Scope: e.key.Scope, ID: e.key.ID, Name: d.step, Result: d.result, Claim: claim,
	})
	if isFence(err, "ordinal") {
		return e.refuse("step " + quote(d.step) + " is recorded already")
	}
	return err
}

// resume refuses what would park at once.
func (d decision) resume(ctx context.Context, e *execution, cl *claim) error {
	intent, err := dbsqlc.New().DecisionIntent(ctx, cl.tx, dbsqlc.DecisionIntentParams{Scope: e.key.Scope, ID: e.key.ID})
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && intent.Reconcilable:
		return nil
	case err != nil:
		return err
	}
	return e.refuse("the call of step " + quote(intent.Name) + " may have happened and nobody can be asked; use SettleStep or Release")
}

func (e *execution) refuse(reason string) error {
	return &Error{Key: e.key, Kind: ErrDecision, Reason: reason}
}

// decisionError explains what the server says.
func (e *execution) decisionError(err error) error {
	var own *Error
	if errors.As(err, &own) {
		return err
	}
	if sqlState(err) == insufficientRights {
		return &Error{Key: e.key, Kind: ErrSchema, Reason: "deciding needs INSERT on idempotency_audit besides what the application needs", Cause: err}
	}
	return schemaError(e.key, err)
}
