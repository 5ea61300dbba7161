package pgidem

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// execute runs the caller's function in the claim's transaction and saves its result. However it is left, by an error,
// a panic of the function or of its arguments' methods, or runtime.Goexit, the transaction is rolled back unless it
// was committed.
func (e *execution) execute(ctx context.Context, cl *claim) (outcome, error) {
	e.taken()
	tx := newTx(e.key, cl.tx)
	fnCtx, cancel := e.client.functionContext(ctx, e.key)
	defer cl.rollback(ctx)
	defer func() { _, _ = tx.end(cancel) }()
	defer cancel()

	result, err := e.run(fnCtx, tx)
	last, misuse := tx.end(cancel)
	if err := e.functionError(cl, err, misuse); err != nil {
		return outcome{}, err
	}
	if err := e.save(ctx, cl, stateSucceeded, result, nil, last); err != nil {
		return outcome{}, err
	}
	return outcome{result: result, attempt: 1, fingerprint: e.fingerprint}, nil
}

// functionError says what becomes of a function that has returned: nil when its result can be saved.
func (e *execution) functionError(cl *claim, err, misuse error) error {
	pg := cl.conn.Conn().PgConn()
	lost := pg.IsClosed()
	switch {
	case !lost && !pg.IsBusy() && pg.TxStatus() == 'I':
		return e.endedByHand(err)
	case err != nil:
		if e.failure = failureOf(err); e.failure != nil {
			return again{saveFailure, err}
		}
		if isRerunnable(err) {
			return again{rerun, err}
		}
		return err
	case misuse != nil:
		return misuse
	case lost:
		return e.aborted("the connection was lost in the function, which returned success", nil)
	case pg.IsBusy():
		return e.aborted("the function returned success with rows or batch results left open; close them", nil)
	case pg.TxStatus() == 'E':
		return e.aborted("an SQL error had aborted the transaction when the function returned success; "+
			"return the error, or use a savepoint (tx.Begin)", nil)
	}
	return nil
}

func (e *execution) aborted(reason string, cause error) error {
	return &Error{Key: e.key, Kind: ErrTxAborted, Reason: reason, Cause: cause}
}

// settleFailure goes round for a definite failure, with a bound of its own: the failure is worth keeping, however
// little of the caller's wait bound is left, and whoever still listens.
func (e *execution) settleFailure(ctx context.Context) (outcome, error) {
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.client.config.FinishBound)
	defer cancel()
	e.waitUntil = time.Now().Add(e.client.config.FinishBound)
	unsaved := e.unsaved("could not be saved within Config.FinishBound")
	out, err := e.settle(bounded)
	var explained *Error
	if errors.Is(err, ErrInProgress) || err != nil && bounded.Err() != nil && !errors.As(err, &explained) {
		err = &Error{
			Key: e.key, Kind: ErrUnavailable, Cause: err,
			Reason: unsaved,
		}
	}
	return out, err
}

// unsaved names the failure in a reason and not as a cause: whoever finds a *Failure in an error may rely on its
// being saved.
func (e *execution) unsaved(why string) string {
	return fmt.Sprintf("the function's definite failure (%.200s) %s", e.failure.Error(), why)
}

// saveFailure saves a definite failure in a transaction of its own: the one that it struck is rolled back.
func (e *execution) saveFailure(ctx context.Context, cl *claim) (outcome, error) {
	if e.kind == kindSteps {
		return e.finishFresh(ctx, cl, stateFailed, nil)
	}
	defer cl.rollback(ctx)
	text, err := e.client.encodeFailure(ctx, e.key, e.failure)
	if err != nil {
		return outcome{}, resultError(e.key, e.unsaved("cannot be saved, and nothing was committed"), err)
	}
	if err := e.save(ctx, cl, stateFailed, nil, text, nil); err != nil {
		return outcome{}, err
	}
	return outcome{failure: e.failure, savedFailure: text, attempt: 1, fingerprint: e.fingerprint}, nil
}
