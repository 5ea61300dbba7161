package pgidem

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// inTx is an execution whose transaction is the caller's: it neither waits, nor runs a transaction again, nor commits.
type inTx struct {
	op *execution
	callersTx
}

// saveWait bounds the wait for a row that is not committed yet, a mark for example. InTx does not wait for others, but locks
// that the server takes for a moment, to extend a table, come under lock_timeout too.
const saveWait = 10 * time.Millisecond

// settle goes round until the key has an outcome. More than one turn is needed to save a failure, and where a mark, which
// takes no lock, has come between.
func (in *inTx) settle(ctx context.Context) (outcome, error) {
	for {
		out, err := in.turn(ctx)
		a, more := err.(again) //nolint:errorlint // A signal of this package, never wrapped.
		if !more {
			return out, in.notSaved(err)
		}
		if a.why == lostRace {
			in.op.rounds++
		}
		if in.op.rounds > maxRounds {
			return outcome{}, in.notSaved(in.error(ErrUnavailable, "its row was written by others again and again, and nothing was saved", a.error))
		}
	}
}

// notSaved names a definite failure in the error that keeps it from being saved: as text, see execution.unsaved.
func (in *inTx) notSaved(err error) error {
	e, ok := err.(*Error) //nolint:errorlint // Straight from this package.
	if !ok || in.op.failure == nil {
		return err
	}
	named := *e
	named.Reason = in.op.unsaved("was not saved") + ": " + e.Reason
	return &named
}

// turn is one pass: claim, decide, act. Unless it saves something, it leaves the transaction as it found it.
func (in *inTx) turn(ctx context.Context) (outcome, error) {
	if in.op.failure != nil { // worth keeping, whoever still listens
		bounded, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), in.finishBound,
			in.error(ErrUnavailable, "Config.FinishBound is over", nil))
		defer cancel()
		ctx = bounded
	}
	defer in.rollback(ctx) // also for a panic and for Goexit
	cl, err := in.claim(ctx)
	if err != nil {
		return outcome{}, err
	}
	v, err := in.op.decide(cl)
	switch {
	case err != nil:
		return outcome{}, err
	case v == replayIt:
		return in.op.saved(ctx, cl.row)
	case in.op.failure != nil: // without the lock too: the unique row decides between it and what the lock's holder saves
		return in.saveFailure(ctx, cl)
	case v == waitIt:
		return outcome{}, in.op.inProgress("somebody else holds it", nil)
	}
	result, err := in.execute(ctx)
	if err == nil {
		err = in.save(ctx, cl, stateSucceeded, result, nil)
	}
	if err != nil {
		return outcome{}, err
	}
	return outcome{result: result, attempt: 1, fingerprint: in.op.fingerprint}, nil
}

// claim makes the savepoint, and behind it asks for the lock without waiting and reads the key. The lock comes second, so
// that a rollback gives it back.
func (in *inTx) claim(ctx context.Context) (*claim, error) {
	cl := &claim{token: newToken()}
	batch := new(pgx.Batch)
	batch.Queue(savepoint)
	batch.Queue(dbsqlc.TxState)
	batch.Queue(in.op.client.tryLockSQL, in.op.lock, cl.token)
	batch.Queue(dbsqlc.KeyRead, in.op.key.Scope, in.op.key.ID)
	at, err := in.send(ctx, batch, map[string]func(pgx.BatchResults) error{
		in.op.client.tryLockSQL: func(r pgx.BatchResults) error { return r.QueryRow().Scan(&cl.granted, nil, &cl.table) },
		dbsqlc.KeyRead: func(r pgx.BatchResults) (err error) {
			cl.row, err = scanKey(r.QueryRow())
			return err
		},
	})
	if err != nil {
		return nil, in.explain(ctx, at, err)
	}
	return cl, in.fits()
}

// execute runs the caller's function and says what becomes of it: its result can be saved where the error is nil.
func (in *inTx) execute(ctx context.Context) ([]byte, error) {
	if err := in.reachRoot(ctx); err != nil {
		return nil, err
	}
	fnCtx, cancel := in.op.client.functionContext(ctx, in.op.key)
	defer cancel()
	result, err := in.op.run(fnCtx, Tx{})
	cancel()
	return result, in.functionError(ctx, err)
}

func (in *inTx) functionError(ctx context.Context, err error) error {
	if isOver(ctx, in.tx) { // the connection may be somebody else's
		return in.endedByHand(err)
	}
	pg := in.tx.Conn().PgConn()
	lost := pg.IsClosed()
	switch {
	case !lost && !pg.IsBusy() && pg.TxStatus() == 'I':
		return in.endedByHand(err)
	case failureOf(err) != nil:
		return in.failed(ctx, err)
	case err != nil:
		if sqlState(err) == deadlockDetected {
			return in.deadlock(err)
		}
		return err
	case lost:
		return in.op.aborted("the connection was lost in the function, which returned success", nil)
	case pg.IsBusy():
		return in.op.aborted("the function returned success with rows or batch results left open, so its connection was closed "+
			"and the caller's whole transaction is rolled back; close them", nil)
	case pg.TxStatus() == 'E':
		return in.op.aborted("an SQL error had aborted the transaction when the function returned success, and what the function did "+
			"was rolled back; return the error, or use a savepoint (tx.Begin)", nil)
	}
	return nil
}

// failed asks for the turn that saves a definite failure, if what the function wrote can be taken back alone.
func (in *inTx) failed(ctx context.Context, err error) error {
	in.op.failure = failureOf(err)
	pg := in.tx.Conn().PgConn()
	lost, busy := pg.IsClosed(), pg.IsBusy()
	refused := in.takeBack(ctx)
	switch {
	case lost:
		return in.op.aborted("the connection was lost in the function", nil)
	case busy:
		return in.op.aborted("the function left rows or batch results open, so its connection was closed and the caller's whole "+
			"transaction is rolled back; close them", nil)
	case sqlState(refused) == invalidSavepoint:
		return in.endedByHand(refused)
	case refused != nil:
		return in.op.aborted("what the function did could not be rolled back alone, and the caller's whole transaction is lost", refused)
	}
	return again{saveFailure, err}
}

// endedByHand keeps a definite failure out of the causes, because it is not saved.
func (in *inTx) endedByHand(cause error) error {
	if f := failureOf(cause); f != nil {
		in.op.failure, cause = f, nil
	}
	return in.error(ErrTxEnded, "the function ended the caller's transaction, or a savepoint around its own work; what it committed "+
		"by that stays, without a result, and a transaction that goes on is aborted: roll it back", cause)
}

// saveFailure saves a definite failure behind a savepoint of its own: what it struck is rolled back.
func (in *inTx) saveFailure(ctx context.Context, cl *claim) (outcome, error) {
	text, err := in.op.client.encodeFailure(ctx, in.op.key, in.op.failure)
	if err != nil {
		return outcome{}, resultError(in.op.key, "it cannot be encoded or sealed, or is too large", err)
	}
	if err := in.save(ctx, cl, stateFailed, nil, text); err != nil {
		return outcome{}, err
	}
	return outcome{failure: in.op.failure, attempt: 1, fingerprint: in.op.fingerprint}, nil
}

// save writes the outcome's row and closes the savepoint. It follows its own bound and not the caller's context, whose end
// would cost the caller the connection.
func (in *inTx) save(ctx context.Context, cl *claim, state string, result, failure []byte) error {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), in.finishBound)
	defer cancel()
	batch := new(pgx.Batch)
	in.op.queueSave(batch, cl, lockTimeoutSetting(bounded, saveWait), state, result, failure)
	batch.Queue(dbsqlc.TxClaim, in.state.Claim)
	batch.Queue(release)
	at, err := in.send(bounded, batch, nil)
	switch {
	case err == nil:
		return nil
	case sqlState(err) == invalidSavepoint, at == dbsqlc.KeySave && isFence(err, "claim"):
		return in.endedByHand(err)
	case at == dbsqlc.KeySave && (isTaken(err) || isFence(err, "attempt")):
		return in.op.keySaveError(err)
	case sqlState(err) == undefinedTable, sqlState(err) == undefinedColumn, // the claim has read it
		sqlState(err) == insufficientRights && in.state.Writable:
		return in.op.misplaced(err)
	}
	return in.explain(context.WithoutCancel(ctx), at, err)
}
