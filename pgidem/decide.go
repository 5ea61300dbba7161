package pgidem

import (
	"fmt"
	"time"
)

// verdict is what a caller may do with a key as it was read.
type verdict int

const (
	runIt    verdict = iota // absent or expired, and the lock is ours
	waitIt                  // absent or expired, but somebody else holds the lock
	replayIt                // settled
	meetIt                  // an unfinished operation of several steps
)

// retryAfter is the hint of ErrInProgress: an operation of one transaction is over within a moment.
const retryAfter = time.Second

// decide is the decision table, in an order that matters: a free key first, then who may use a taken one, then what it says.
// What becomes of an unfinished operation of several steps needs another look, at its owner: see meet.
func (e *execution) decide(cl *claim) (verdict, error) {
	row := cl.row
	switch {
	case row.found && e.unknown != nil && e.wrote(row) && row.settled():
		return replayIt, nil // our own COMMIT has succeeded, even if its result should have expired since
	case !row.found || row.Expired:
		if cl.granted {
			return runIt, nil
		}
		return waitIt, nil
	case row.Kind != e.kind:
		return 0, e.reused("it belongs to an operation of kind " + row.Kind)
	case !e.fingerprint.matches(row.fingerprint()):
		return 0, e.reused("it was used with another fingerprint")
	}
	switch row.State {
	case stateSucceeded, stateFailed:
		return replayIt, nil
	case stateRunning, stateUndoing, stateReleased:
		if e.kind == kindSteps {
			return meetIt, nil
		}
	case stateTombstone:
		return 0, &Error{Key: e.key, Kind: ErrExpired, Reason: "its result is gone; use a new key"}
	case stateParked:
		if e.kind == kindSteps {
			return meetIt, nil
		}
		return 0, &Error{Key: e.key, Kind: ErrParked, Reason: "an operator must settle, resume or release it"}
	}
	return 0, &Error{
		Key: e.key, Kind: ErrSchema,
		Reason: fmt.Sprintf("its row has the state %q, which an operation of this kind never has; "+
			"see the view idempotency_illegal_rows", row.State),
	}
}

func (e *execution) reused(reason string) error {
	return &Error{Key: e.key, Kind: ErrKeyReused, Reason: reason + "; use a new key"}
}

func (e *execution) inProgress(reason string, cause error) error {
	return &Error{Key: e.key, Kind: ErrInProgress, Reason: reason, RetryAfter: retryAfter, Cause: cause}
}
