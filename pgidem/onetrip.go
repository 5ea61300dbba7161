package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// oneTrip is an operation that is claimed, done, saved and committed in one round trip, if the key is free.
type oneTrip struct {
	statements []statement
	encode     func(context.Context) ([]byte, error)
}

const commit = "COMMIT"

// replayBound is when an unanswered batch is no longer taken for a replay.
const replayBound = 50 * time.Millisecond

// begin is what [pgx.Batch.BeginTx] queues for a claim.
var begin = func() string {
	b := new(pgx.Batch)
	b.BeginTx(claimOptions)
	return b.QueuedQueries[0].SQL
}()

// send tries it. The key's row comes first, so that a taken key stops everything behind it.
func (o *oneTrip) send(ctx context.Context, e *execution) (outcome, error) {
	result, err := o.encode(ctx)
	if err != nil {
		return outcome{}, again{notFree, err} // meets the error again, unless the key has an answer
	}
	conn, err := e.acquire(ctx, e.acquireBound())
	if err != nil {
		return outcome{}, err
	}
	token := newToken()
	// The rollback is the claim's: nothing of a transaction that did not commit may keep the key's lock.
	cl := &claim{conn: conn, token: token, bound: e.client.config.FinishBound}
	defer cl.rollback(ctx)
	e.tokens = append(e.tokens, token) // before it is sent: from now on it may be found in the database
	at, err := o.exchange(ctx, e, conn, token, result)
	if err == nil {
		return outcome{result: result, attempt: 1, fingerprint: e.fingerprint}, nil
	}
	return e.notDone(ctx, cl, at, err)
}

// exchange sends the batch and reads its answers; at is the statement whose answer is err. It follows its own bound
// and not the caller's context, because COMMIT is part of it.
func (o *oneTrip) exchange(ctx context.Context, e *execution, conn *pgxpool.Conn, token string, result []byte) (at string, err error) {
	batch := new(pgx.Batch)
	batch.BeginTx(claimOptions)
	batch.Queue(e.client.saveFirstSQL, e.key.Scope, e.key.ID, e.lock, token,
		e.fingerprint.algorithm, e.fingerprint.digest, result, e.lockTimeout(ctx, e.waitUntil), interval(e.ttl))
	for _, s := range o.statements {
		batch.Queue(s.sql, s.args...)
	}
	batch.Queue(dbsqlc.KeyGuard, token)
	batch.Queue(commit)

	// Those who would not wait for the key learn that it is taken, if this is not a replay, which is answered by then.
	defer time.AfterFunc(replayBound, e.taken).Stop()
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.client.config.FinishBound)
	defer cancel()
	return exchange(bounded, conn, batch)
}

// notDone says what becomes of a batch that was not answered with success throughout. at is not always exact: several
// commands in one statement, which the simple protocol allows, have an answer each.
func (e *execution) notDone(ctx context.Context, cl *claim, at string, err error) (outcome, error) {
	conn := cl.conn.Conn()
	switch {
	case e.unsent(cl, err) && conn.IsClosed():
		return outcome{}, again{brokenClaim, err}
	case e.unsent(cl, err):
		return outcome{}, again{notFree, err} // meets the error again, unless the key has an answer
	case !cl.inTransaction() && !isDefiniteAbort(err) && !errors.Is(err, pgx.ErrTxCommitRollback):
		e.late = true
		return outcome{}, again{unknownCommit, err}
	case at == begin && isReadOnly(err):
		return outcome{}, e.claimError(ctx, atBegin{err}, false)
	case at == begin: // the simple protocol has found a mistake in one of the statements, and done nothing
		return outcome{}, again{notFree, err}
	case at == e.client.saveFirstSQL:
		return e.notFirst(ctx, cl, err)
	case isRerunnable(err):
		return outcome{}, again{rerun, err}
	case at == dbsqlc.KeyGuard && sqlState(err) == divisionByZero,
		at != commit && !conn.IsClosed() && !cl.inTransaction():
		return outcome{}, &Error{
			Key: e.key, Kind: ErrTxEnded, Cause: err,
			Reason: "a statement of the batch ended the transaction or reset its settings; if it committed, what came before it stays, " +
				"the result included, and the rest was rolled back",
		}
	default:
		return outcome{}, err // of one of the caller's statements, or of a constraint that was deferred to COMMIT
	}
}

// unsent reports an error that struck before the batch was sent, while pgx prepared a statement or encoded an argument.
func (e *execution) unsent(cl *claim, err error) bool {
	var early pgx.ErrPreprocessingBatch
	if errors.As(err, &early) {
		return true
	}
	open := !cl.conn.Conn().IsClosed()
	return open && !cl.inTransaction() && sqlState(err) == "" && !errors.Is(err, pgx.ErrTxCommitRollback)
}

// notFirst is called where the key has a row or a holder: the row tells which, as it does behind a claim.
func (e *execution) notFirst(ctx context.Context, cl *claim, err error) (outcome, error) {
	refused := isFence(err, "claim") || isWaitOver(err)
	if !refused && !isTaken(err) {
		return outcome{}, e.claimError(ctx, err, false)
	}
	if err := cl.end(ctx); err != nil {
		return outcome{}, again{brokenClaim, err}
	}
	cl.row, err = scanKey(cl.conn.QueryRow(ctx, dbsqlc.KeyRead, e.key.Scope, e.key.ID))
	if err != nil {
		return outcome{}, e.claimError(ctx, err, cl.conn.Conn().IsClosed())
	}
	switch v, err := e.decide(cl); {
	case err != nil:
		return outcome{}, err
	case v == replayIt:
		return e.saved(ctx, cl.row)
	case refused:
		return outcome{}, again{busy, nil}
	default: // an expired row, or one that is gone
		return outcome{}, again{notFree, nil}
	}
}

// doubt keeps an error from saying that nothing was committed while a batch may still be on its way. It can only land on
// a free key, so an error that tells of a taken one is certain.
func (e *execution) doubt(err error) error {
	if err == nil || !e.late {
		return err
	}
	for _, certain := range []error{ErrUnknownOutcome, ErrKeyReused, ErrExpired, ErrParked, ErrResult} {
		if errors.Is(err, certain) {
			return err
		}
	}
	return &Error{
		Key: e.key, Kind: ErrUnknownOutcome, Cause: err,
		Reason: "the answer to a batch was lost, and running it again failed; the first may still arrive: ask again with the same key",
	}
}
