package pgidem

import (
	"context"
	"slices"
	"time"
)

// maxRounds bounds how often one call runs its function again after it sent a COMMIT that did not succeed.
const maxRounds = 3

// execution is one caller's way through the database for one key: claim, decide, then replay or run and save.
type execution struct {
	client      *Client
	key         Key
	kind        string
	lock        int64
	fingerprint Fingerprint
	ttl         time.Duration
	waitUntil   time.Time
	nested      bool
	run         func(context.Context, Tx) ([]byte, error)
	taken       func() // tells those who wait in memory that the key is in progress

	steps   *stepsCall // nil for operations of one transaction
	first   *oneTrip   // tried once, before anything else
	late    bool       // its answer was lost, and it may still be on its way
	tokens  []string   // of every claim of this call that may have been committed
	failure *Failure   // a definite failure that waits to be saved
	refused error      // why the last COMMIT did not succeed
	rounds  int
	reruns  int
	broken  int

	unknown  error // the lost answer to a COMMIT that is not settled yet
	settleBy time.Time
	barriers int

	callStart
}

// again is how a turn asks for another one.
type again struct {
	why   reason
	error // what happened
}

func (a again) Unwrap() error { return a.error }

type reason int

const (
	busy          reason = iota // somebody else holds the lock
	notFree                     // it was tried in one round trip, and the key has a row; now the ordinary way
	brokenClaim                 // before anything ran in this turn
	rerun                       // the server asks for it: 40001, 40P01
	lostRace                    // somebody else saved the key first
	unknownCommit               // no answer to COMMIT
	failedBarrier               // an outcome was found, but could not be made as durable as one that was answered
	saveFailure                 // the function's transaction is gone, its definite failure is to be saved
	changed                     // the operation is not as it was when it was read
	noOwner                     // the instance lock that a claim needs is not there, or is gone
	takenOver                   // another caller has taken the operation over while this one ran it
)

// settle goes round until the key has an outcome, or an error ends the call.
func (e *execution) settle(ctx context.Context) (outcome, error) {
	wait := false
	for {
		out, err := e.turn(ctx, wait)
		a, more := err.(again) //nolint:errorlint // A signal of this file, never wrapped.
		switch {
		case !more:
			return out, e.doubt(err)
		case a.why == saveFailure:
			return e.settleFailure(ctx)
		}
		if err := e.next(ctx, a); err != nil {
			return outcome{}, e.doubt(err)
		}
		wait = a.why == busy
	}
}

// next says whether there may be another turn, and waits before it where that helps.
func (e *execution) next(ctx context.Context, a again) error {
	switch a.why {
	case busy:
		e.taken()
		if !time.Now().Before(e.waitUntil) {
			return e.inProgress("somebody else holds it", a.error)
		}
	case brokenClaim:
		if e.broken++; e.broken > maxRounds {
			return &Error{Key: e.key, Kind: ErrUnavailable, Reason: "every claim lost its connection", Cause: a.error}
		}
		return pause(ctx, e.broken)
	case rerun:
		if e.reruns++; e.reruns > e.client.config.Reruns {
			return a.error
		}
		return pause(ctx, e.reruns)
	case lostRace:
		e.rounds++
		e.refused = a.error
	case unknownCommit:
		e.rounds++
		e.refused = a.error
		e.unknown = a.error
		e.settleBy = time.Now().Add(2 * e.client.config.FinishBound)
	case failedBarrier:
		if e.barriers++; e.barriers > maxRounds || time.Now().After(e.settleBy) {
			return &Error{
				Key: e.key, Kind: ErrUnknownOutcome, Cause: a.error,
				Reason: "the answer to COMMIT was lost, and what was found could not be made durable; ask again with the same key",
			}
		}
		return pause(context.WithoutCancel(ctx), e.barriers)
	case noOwner:
		if e.broken++; e.broken > maxRounds {
			return e.ownerless(a.error)
		}
		return e.ensureOwner(ctx)
	case takenOver:
		if e.rounds++; e.rounds > maxRounds || ctx.Err() != nil {
			return a.error
		}
	case saveFailure: // has its own way, settleFailure
	case notFree, changed:
	}
	return nil
}

// turn is one pass: claim, decide, act.
func (e *execution) turn(ctx context.Context, wait bool) (outcome, error) {
	if first := e.first; first != nil {
		e.first = nil
		return first.send(ctx, e)
	}
	cl, err := e.claimFor(ctx, wait)
	if err != nil {
		return outcome{}, err
	}
	v, err := e.decide(cl)
	switch {
	case err != nil:
		cl.rollback(ctx)
		return outcome{}, err
	case v == replayIt:
		return e.replay(ctx, cl)
	case v == waitIt:
		cl.rollback(ctx)
		return outcome{}, again{busy, nil}
	case v == meetIt:
		return e.meet(ctx, cl)
	}
	// The lock was granted and the key is free. After a lost answer that is final where our old transaction held the lock
	// to its end, but not where it may still arrive.
	if !e.late {
		e.unknown = nil
	}
	switch {
	case e.rounds > maxRounds:
		cl.rollback(ctx)
		return outcome{}, &Error{
			Key: e.key, Kind: ErrUnavailable, Cause: e.refused,
			Reason: "no COMMIT succeeded, and nothing was committed",
		}
	case e.failure != nil:
		return e.saveFailure(ctx, cl)
	case ctx.Err() != nil:
		cl.rollback(ctx)
		return outcome{}, context.Cause(ctx)
	case e.kind == kindSteps:
		return e.start(ctx, cl)
	default:
		return e.execute(ctx, cl)
	}
}

// claimFor claims in the way that the situation asks for: a lost COMMIT is settled whatever the caller's context
// says; somebody else's lock is waited for in the server, by a bounded number of connections; a first try never waits.
func (e *execution) claimFor(ctx context.Context, wait bool) (*claim, error) {
	switch {
	case e.unknown != nil:
		return e.claimToSettle(ctx)
	case wait:
		return e.claimWaiting(ctx)
	default:
		return e.claim(ctx, time.Time{})
	}
}

// wrote reports whether this call wrote the row.
func (e *execution) wrote(row keyRow) bool {
	return slices.Contains(e.tokens, formatUUID(row.Claim.Bytes))
}
