package pgidem

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// seen is an unfinished operation as a caller has read it: a takeover may change just this, and nothing that came since.
type seen struct {
	dbsqlc.OperationReadRow
	claim string
}

// meet decides about an unfinished operation: to wait for its owner, to take it over, or to leave it to an operator.
func (e *execution) meet(ctx context.Context, cl *claim) (outcome, error) {
	s, err := readOperation(ctx, cl, e.key)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		cl.rollback(ctx)
		return outcome{}, again{changed, nil}
	case err != nil:
		lost := cl.conn.Conn().IsClosed()
		cl.rollback(ctx)
		return outcome{}, e.claimError(ctx, err, lost)
	}
	switch e.judge(s) {
	case meetIt: // it has become something else since
		cl.rollback(ctx)
		return outcome{}, again{changed, nil}
	case waitIt:
		cl.rollback(ctx)
		if err := e.awaitOwner(ctx, s); err != nil {
			return outcome{}, err
		}
		return outcome{}, again{changed, nil}
	case replayIt, runIt:
	}
	switch {
	case s.State == stateParked:
		cl.rollback(ctx)
		return outcome{}, e.parked(ctx, s.Parked)
	case !cl.granted:
		cl.rollback(ctx)
		return outcome{}, again{busy, nil}
	case ctx.Err() != nil:
		cl.rollback(ctx)
		return outcome{}, context.Cause(ctx)
	case s.CallSecondsLeft > 0: // asking about the call has no sense yet, and a claim would cost an attempt
		cl.rollback(ctx)
		return outcome{}, e.awaitCall(ctx, secondsLeft(s.CallSecondsLeft))
	case int(s.Attempt-s.AttemptsForgiven) >= e.steps.opts.MaxAttempts && !e.ours(s):
		return outcome{}, e.parkExhausted(ctx, cl, s)
	}
	return e.take(ctx, cl, s)
}

func readOperation(ctx context.Context, cl *claim, key Key) (seen, error) {
	row, err := dbsqlc.New().OperationRead(ctx, cl.tx, dbsqlc.OperationReadParams{Scope: key.Scope, ID: key.ID})
	return seen{row, formatUUID(row.Claim.Bytes)}, err
}

// ours reports a claim of this very call, whose answer was lost.
func (e *execution) ours(s seen) bool { return slices.Contains(e.tokens, s.claim) }

// judge says whether an operation may be taken over (runIt). The registry is asked here, and so after the row was read.
func (e *execution) judge(s seen) verdict {
	switch s.State {
	case stateParked, stateReleased:
		return runIt
	case stateRunning, stateUndoing:
	default:
		return meetIt
	}
	switch {
	case e.ours(s):
		return runIt
	case e.client.registry.has(s.claim):
		return waitIt
	case e.client.isOwner(s.Owner): // nobody in this process works on it
		return runIt
	case s.OwnerAlive, s.ServerYoung, e.client.liveness.justReturned():
		return waitIt
	default:
		return runIt
	}
}

// awaitCall waits until a call that may have been made cannot take effect any more, within the wait bound.
func (e *execution) awaitCall(ctx context.Context, left time.Duration) error {
	e.taken()
	if err := e.awaitDeadline(ctx, left, nil); err != nil {
		return err
	}
	return again{changed, nil}
}

// awaitDeadline is the same for the owner, who may have made the call itself: cause is what it was told.
func (e *execution) awaitDeadline(ctx context.Context, left time.Duration, cause error) error {
	if time.Now().Add(left).After(e.waitUntil) {
		return &Error{
			Key: e.key, Kind: ErrInProgress, RetryAfter: left, Cause: asTransient(cause),
			Reason: "a call of one of its steps may still take effect until then",
		}
	}
	return sleep(ctx, left)
}

func (c *Client) isOwner(owner *int64) bool {
	in := c.liveness.get()
	return in != nil && owner != nil && *owner == in.id
}

// awaitOwner returns when the operation is not as it was seen any more, which it asks in ever longer intervals: between two steps
// nobody holds the key's lock, so there is nothing to wait for in the server.
func (e *execution) awaitOwner(ctx context.Context, s seen) error {
	e.taken()
	for tries := 1; ; tries++ {
		if !time.Now().Before(e.waitUntil) {
			return e.inProgress(s.inWhoseHands(), nil)
		}
		bounded, cancel := context.WithDeadline(ctx, e.waitUntil)
		_ = pause(bounded, tries)
		cancel()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		same, err := e.poll(ctx, s)
		if err != nil || !same {
			return err
		}
	}
}

func (s seen) inWhoseHands() string {
	if !s.OwnerAlive {
		return "its owner has lost its liveness connection and may come back"
	}
	return "its owner is alive and works on it"
}

func (e *execution) poll(ctx context.Context, s seen) (same bool, err error) {
	if e.client.isOwner(s.Owner) && !e.client.registry.has(s.claim) {
		return false, nil
	}
	bounded, cancel := context.WithDeadline(ctx, e.waitUntil.Add(deadlineMargin)) // a last look also where the bound has just ended
	defer cancel()
	conn, err := e.client.pool.Acquire(bounded)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case err != nil:
		return true, nil // another try where there is time left
	}
	defer conn.Release()
	same, err = dbsqlc.New().OperationPoll(ctx, conn, dbsqlc.OperationPollParams{
		Scope: e.key.Scope, ID: e.key.ID, ReadClaim: s.claim, OwnersReturn: e.client.liveness.justReturned() || e.client.registry.has(s.claim),
	})
	if err != nil {
		return false, nil // the next claim meets the same error, or finds no row, and says so
	}
	return same, nil
}

// take makes this call the owner. The UPDATE comes first: it waits for a write in flight, and only behind it the steps are all there.
func (e *execution) take(ctx context.Context, cl *claim, s seen) (outcome, error) {
	in := e.client.liveness.get()
	if in == nil {
		cl.rollback(ctx)
		return outcome{}, again{noOwner, nil}
	}
	op := e.newOp(cl.token, in)
	high, low := in.halves()
	batch := new(pgx.Batch)
	batch.Queue(dbsqlc.OperationTake, cl.token, high, low, in.id, e.key.Scope, e.key.ID, s.State, s.claim, s.Owner).
		QueryRow(func(row pgx.Row) error { return row.Scan(&op.attempt, nil) })
	batch.Queue(dbsqlc.OperationSteps, e.key.Scope, e.key.ID).
		Query(func(rows pgx.Rows) (err error) {
			op.script.read = time.Now()
			op.script.saved, err = pgx.CollectRows(rows, pgx.RowToStructByPos[dbsqlc.OperationStepsRow])
			return err
		})
	batch.Queue(commit)
	err := e.commit(ctx, cl, batch)
	if err != nil {
		e.client.registry.leave(op.running)
		if errors.Is(err, pgx.ErrNoRows) {
			return outcome{}, again{changed, nil}
		}
		return outcome{}, err
	}
	e.client.claimed(op.running, in)
	e.failure = nil // another caller has begun since, and it is its record that counts
	e.unknown = nil // an earlier claim whose answer was lost is replaced by this one
	op.life = formatUUID(s.Life.Bytes)
	op.resumed = s.RecoveryPoint
	op.started, op.kept = true, true
	op.state = stateRunning
	if s.Error != nil {
		op.state = stateUndoing
		op.failureText = s.Error
		if op.failure, err = e.client.decodeFailure(ctx, e.key, s.Error); err != nil {
			return outcome{}, op.giveUp(ctx, err)
		}
	}
	return e.operate(ctx, op)
}

// claimed says that an operation's row is committed. Where the instance was replaced meanwhile, the row carries a dead number.
func (c *Client) claimed(r *running, in *instance) {
	c.registry.confirm(r, in.generation)
	if now := c.liveness.get(); now == nil || now.generation != in.generation {
		c.tagger.wake()
	}
}

// commit sends a claim's own statements and COMMIT, and gives the connection back. Errors of one statement are told from those of
// another by what they are about: none of these is the caller's.
func (e *execution) commit(ctx context.Context, cl *claim, batch *pgx.Batch) error {
	defer cl.rollback(ctx)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.client.config.FinishBound)
	defer cancel()
	e.tokens = append(e.tokens, cl.token)            // before it is sent: from now on it may be found in the database
	err := cl.conn.SendBatch(bounded, batch).Close() // which runs the statements' readers
	var early pgx.ErrPreprocessingBatch
	unsent := errors.As(err, &early)
	switch {
	case err == nil, errors.Is(err, pgx.ErrNoRows):
		return err
	case !unsent && !cl.inTransaction() && !isDefiniteAbort(err) && !errors.Is(err, pgx.ErrTxCommitRollback):
		return again{unknownCommit, err}
	case isOwnerless(err):
		return again{noOwner, err}
	case isTaken(err):
		return again{lostRace, err}
	case isRerunnable(err):
		return again{rerun, err}
	case isWaitOver(err):
		return again{busy, err}
	}
	return e.claimError(ctx, err, cl.conn.Conn().IsClosed())
}

// parkExhausted leaves an operation to an operator that was claimed too often.
func (e *execution) parkExhausted(ctx context.Context, cl *claim, s seen) error {
	why := &Failure{Code: "attempts", Message: "its attempts are used up"}
	text, err := e.client.encodeParked(ctx, e.key, why)
	if err != nil {
		cl.rollback(ctx)
		return err
	}
	batch := new(pgx.Batch)
	batch.Queue(dbsqlc.OperationParkRead, text, e.key.Scope, e.key.ID, s.State, s.claim, s.Owner).
		QueryRow(func(row pgx.Row) error { return row.Scan(nil) })
	batch.Queue(commit)
	err = e.commit(ctx, cl, batch)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return again{changed, nil}
	case err != nil:
		return err
	}
	return e.parkedError(why)
}

// ensureOwner waits for an instance, for a call that found none.
func (e *execution) ensureOwner(ctx context.Context) error {
	if e.broken > 1 {
		if err := pause(ctx, e.broken+2); err != nil {
			return err
		}
	}
	bounded, cancel := context.WithTimeoutCause(ctx, e.client.config.FinishBound, &Error{
		Kind: ErrUnavailable, Reason: "the liveness connection could not be opened within Config.FinishBound",
	})
	defer cancel()
	return aboutKey(e.key, e.client.liveness.ensure(bounded))
}

// ownerless explains that the instance's lock is never seen by the pool.
func (e *execution) ownerless(cause error) error {
	if e.client.config.LivenessDSN != "" {
		return &Error{Key: e.key, Kind: ErrLocks, Cause: cause, Reason: "the lock that the liveness connection holds is not seen by the pool's connections; " +
			"does Config.LivenessDSN lead to the same database of the same server?"}
	}
	return &Error{Key: e.key, Kind: ErrUnavailable, Cause: cause, Reason: "the liveness connection was lost again and again"}
}
