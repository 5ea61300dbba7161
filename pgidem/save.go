package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// save sends the statements that the function handed over, the outcome's row and COMMIT in one round trip. It follows
// its own bound and not the caller's context: once the function has returned, its work is worth keeping.
//
// The connection tells what an error means. Still in a transaction: COMMIT was not executed, nothing is saved. Out of
// it: the server's answer to COMMIT decides, where it is one. Lost: the outcome is unknown.
func (e *execution) save(ctx context.Context, cl *claim, state string, result, failure []byte, last []statement) error {
	batch := new(pgx.Batch)
	for _, s := range last {
		batch.Queue(s.sql, s.args...)
	}
	e.queueSave(batch, cl, e.lockTimeout(ctx, e.waitUntil), state, result, failure)
	batch.Queue(commit)

	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.client.config.FinishBound)
	defer cancel()
	e.tokens = append(e.tokens, cl.token) // before it is sent: from now on it may be found in the database
	if at, err := exchange(bounded, cl.conn, batch); err != nil {
		return e.saveError(cl, err, at)
	}
	return nil
}

// queueSave queues the statements that save an outcome. They wait no longer than lockTimeout for what others have not
// committed yet: marks take no advisory lock.
func (e *execution) queueSave(batch *pgx.Batch, cl *claim, lockTimeout, state string, result, failure []byte) {
	if cl.row.found { // decide has let nothing but an expired row come here
		batch.Queue(dbsqlc.TxBound, lockTimeout)
		batch.Queue(dbsqlc.KeyDropExpired, e.key.Scope, e.key.ID)
		batch.Queue(dbsqlc.TxUnbound)
	}
	batch.Queue(dbsqlc.KeySave, e.key.Scope, e.key.ID, state, cl.token, cl.table,
		e.fingerprint.algorithm, e.fingerprint.digest, result, failure, lockTimeout, interval(e.ttl))
}

// exchange sends a batch that ends with COMMIT and reads its answers; at is the statement whose answer is err.
func exchange(ctx context.Context, conn *pgxpool.Conn, batch *pgx.Batch) (at string, err error) {
	results := conn.SendBatch(ctx, batch)
	for _, query := range batch.QueuedQueries {
		tag, err := results.Exec()
		if err == nil && query.SQL == commit && tag.String() == "ROLLBACK" {
			err = pgx.ErrTxCommitRollback
		}
		if err != nil {
			_ = results.Close() // what it says, err has said; but only behind it does the connection tell its state
			var early pgx.ErrPreprocessingBatch
			if errors.As(err, &early) { // while it was prepared, before the batch was sent
				return early.SQL(), err
			}
			return query.SQL, err
		}
	}
	return commit, results.Close()
}

func interval(d time.Duration) pgtype.Interval {
	return pgtype.Interval{Microseconds: d.Microseconds(), Valid: true}
}

// saveError tells a definite abort from an unknown outcome, and whose mistake it was. sql is the statement that failed.
func (e *execution) saveError(cl *claim, err error, sql string) error {
	var early pgx.ErrPreprocessingBatch
	unsent := errors.As(err, &early) // and COMMIT with it, even where it cost the connection
	switch {
	case sqlState(err) == idleInTransactionTimeout: // strikes only where the server waits for a message: no COMMIT came
		return e.aborted("the server ended it because the function left it idle (idle_in_transaction_session_timeout)", err)
	case !unsent && !cl.inTransaction() && !isDefiniteAbort(err) && !errors.Is(err, pgx.ErrTxCommitRollback):
		return again{unknownCommit, err}
	case isRerunnable(err):
		return again{rerun, err}
	case (sql == dbsqlc.KeySave || sql == dbsqlc.KeyDropExpired) && isWaitOver(err):
		return again{busy, err}
	case sql == dbsqlc.KeySave:
		return e.keySaveError(err)
	case sql == dbsqlc.KeyDropExpired:
		return e.misplaced(err)
	default:
		return err // of a statement that the function handed over, or of a constraint that was deferred to COMMIT
	}
}

// keySaveError reads what the row that could not be written says.
func (e *execution) keySaveError(err error) error {
	switch {
	case isTaken(err):
		return again{lostRace, err} // the row is the guarantee, the lock only saves the work
	case isFence(err, "claim"):
		return e.endedByHand(err)
	case isFence(err, "attempt"):
		return e.aborted("the function changed search_path or role, and the result would be saved where nobody looks for it; set it back", err)
	default:
		return e.misplaced(err)
	}
}

// misplaced explains errors of the library's own statements behind fn: the claim has read the same table before.
func (e *execution) misplaced(err error) error {
	switch sqlState(err) {
	case undefinedTable, undefinedColumn, insufficientRights:
		return e.aborted("the function changed search_path or role, and the result cannot be saved; set it back", err)
	}
	return err
}

func (e *execution) endedByHand(cause error) error {
	const reason = "the function ended its transaction by SQL; what it committed stays, without a result"
	if f := failureOf(cause); f != nil {
		e.failure = f
		return &Error{Key: e.key, Kind: ErrTxEnded, Reason: e.unsaved("was not saved") + ": " + reason}
	}
	return &Error{Key: e.key, Kind: ErrTxEnded, Cause: cause, Reason: reason}
}
