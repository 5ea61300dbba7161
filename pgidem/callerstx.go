package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// One name for every savepoint: names that differ would fill pgx's statement cache, and an inner one hides an outer one.
// It is reserved (see InTx): one of a function's own would hide the library's.
const (
	savepoint = "SAVEPOINT pgidem_operation"
	release   = "RELEASE SAVEPOINT pgidem_operation"
	// In the simple protocol, because nothing but ROLLBACK TO can be prepared while the transaction is aborted.
	rollbackTo = "ROLLBACK TO SAVEPOINT pgidem_operation; RELEASE SAVEPOINT pgidem_operation"
)

// callersTx is a transaction that the caller has begun and will end. What the library does in it stands behind a
// savepoint, the lock and the settings too, so that whatever fails can be taken back and the transaction lives on.
type callersTx struct {
	tx          pgx.Tx
	root        pgx.Tx // what tx is a savepoint of, if it is one, so that it can be reached when tx has ended
	about       Key    // what errors are about
	finishBound time.Duration

	state dbsqlc.TxStateRow
	open  bool // the savepoint is there
}

func newCallersTx(tx pgx.Tx, about Key, finishBound time.Duration) callersTx {
	return callersTx{tx: tx, root: tx, about: about, finishBound: finishBound}
}

// reachRoot is for before a function that may end tx by Commit or Rollback. If tx is a savepoint, the transaction goes on
// then, and has to be aborted; but not through tx, which pgx has closed, and not through the connection, which may serve
// somebody else if the transaction has ended too. A savepoint that is begun in another one belongs, in pgx, to
// the transaction itself, and refuses with that. The server drops it with the library's own, which is around it.
func (t *callersTx) reachRoot(ctx context.Context) error {
	switch t.tx.(type) {
	case *pgxpool.Tx, Tx: // never a savepoint
		return nil
	}
	root, err := t.tx.Begin(ctx)
	if err != nil {
		return t.explain(ctx, savepoint, err)
	}
	t.root = root
	return nil
}

// usable refuses a transaction in which nothing can be done, before anything is sent.
func (t *callersTx) usable(ctx context.Context) error {
	if err := t.refusal(ctx); err != nil {
		return err
	}
	pg := t.tx.Conn().PgConn()
	switch {
	case pg.IsClosed():
		return t.error(ErrTxAborted, "its connection is lost, and nothing of it will be committed; begin another", nil)
	case pg.IsBusy():
		return t.error(ErrTxConcurrent, "rows or batch results of it are open; close them first", nil)
	case pg.TxStatus() == 'I':
		return t.error(ErrTxEnded, "it was ended by SQL; begin another", nil)
	case pg.TxStatus() != 'T':
		return t.error(ErrTxAborted, "an SQL error has aborted it; roll it back and begin another", nil)
	}
	return nil
}

// refusal asks the pgx.Tx whether it is open, by a batch of nothing, for which nothing is sent. The connection must not be
// looked at before: when the transaction has ended, it may be in use by somebody who got it from the pool since.
func (t *callersTx) refusal(ctx context.Context) error {
	err := ask(ctx, t.tx)
	var e *Error
	if err == nil || errors.As(err, &e) { // the latter: of a Tx, the transaction of an operation
		return err
	}
	return t.error(ErrTxEnded, "it has ended; begin another", err)
}

func ask(ctx context.Context, tx pgx.Tx) error { return tx.SendBatch(ctx, new(pgx.Batch)).Close() }

// isOver reports a transaction that was ended by a method: its connection is not its own any more.
func isOver(ctx context.Context, tx pgx.Tx) bool {
	err := ask(ctx, tx)
	var e *Error
	return err != nil && (!errors.As(err, &e) || errors.Is(err, ErrTxEnded))
}

// send sends a batch and reads its answers; read has how, where there is more to read than success. at is the statement
// whose answer is err.
func (t *callersTx) send(ctx context.Context, batch *pgx.Batch, read map[string]func(pgx.BatchResults) error) (at string, err error) {
	results := t.tx.SendBatch(ctx, batch)
	for _, query := range batch.QueuedQueries {
		switch scan := read[query.SQL]; {
		case scan != nil:
			err = scan(results)
		case query.SQL == dbsqlc.TxState:
			err = results.QueryRow().Scan(&t.state.Isolation, &t.state.ReadOnly, &t.state.Claim, &t.state.Writable)
		default:
			_, err = results.Exec()
		}
		if err != nil {
			_ = results.Close() // what it says, err has said; but only behind it does the connection tell its state
			var early pgx.ErrPreprocessingBatch
			if errors.As(err, &early) { // while it was prepared, before the batch was sent
				return early.SQL(), err
			}
			return query.SQL, err
		}
		switch query.SQL {
		case savepoint:
			t.open = true
		case release:
			t.open = false
		}
	}
	return "", results.Close()
}

// fits refuses what the server has said of the transaction.
func (t *callersTx) fits() error {
	switch {
	case t.state.Isolation == "repeatable read" || t.state.Isolation == "serializable":
		return t.error(ErrIsolation, "it is "+t.state.Isolation+"; begin it as READ COMMITTED (pgx.TxOptions, or the server's default)", nil)
	case t.state.ReadOnly:
		return t.error(ErrReadOnly, "the caller's transaction is read-only; begin it as READ WRITE, on the primary", nil)
	}
	return nil
}

// explain translates what can go wrong with a statement of the library.
func (t *callersTx) explain(ctx context.Context, at string, err error) error {
	if misfit := t.fits(); misfit != nil {
		return misfit
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	explained := t.translate(at, err)
	var e *Error
	if errors.As(explained, &e) {
		e.Reason += t.fate()
	}
	return explained
}

func (t *callersTx) translate(at string, err error) error {
	switch code := sqlState(err); {
	case code == deadlockDetected:
		return t.deadlock(err)
	case t.open && waits(at) && isWaitOver(err):
		return &Error{
			Key: t.about, Kind: ErrInProgress, RetryAfter: retryAfter, Cause: err,
			Reason: "another transaction has written it, or one of the IDs, and has not ended",
		}
	case code == undefinedTable, code == undefinedColumn, code == insufficientRights:
		return schemaError(t.about, err)
	}
	return t.error(ErrUnavailable, "a statement of the library failed in the caller's transaction", err)
}

// waits reports a statement that waits for rows which others have written and not committed.
func waits(sql string) bool {
	switch sql {
	case dbsqlc.KeyDropExpired, dbsqlc.KeySave, dbsqlc.MarkDropExpired, dbsqlc.MarkSave:
		return true
	}
	return false
}

// fate says where the caller's transaction cannot go on behind an error.
func (t *callersTx) fate() string {
	pg := t.tx.Conn().PgConn()
	switch {
	case pg.IsClosed():
		return "; the connection is lost, and nothing of the caller's transaction will be committed"
	case !t.open && pg.TxStatus() == 'E': // it struck while statements were prepared, before SAVEPOINT
		return "; the caller's transaction is aborted: roll it back"
	}
	return ""
}

func (t *callersTx) deadlock(cause error) error {
	return t.error(ErrDeadlock, "another transaction and the caller's waited for each other, and the library cannot run the "+
		"caller's again; roll it back and run it again, and take several keys in one order everywhere", cause)
}

func (t *callersTx) error(kind error, reason string, cause error) error {
	return &Error{Key: t.about, Kind: kind, Reason: reason, Cause: cause}
}

// rollback takes back what has not been.
func (t *callersTx) rollback(ctx context.Context) { _ = t.takeBack(ctx) }

// takeBack takes back everything behind the savepoint, if it is there. It does not follow the caller's context. Where it
// is impossible because the connection is busy, the caller could still commit what has to be taken back: the connection
// is closed, and the server rolls everything back. Where the savepoint is gone, the error aborts the transaction, and
// nobody can commit that.
func (t *callersTx) takeBack(ctx context.Context) error {
	if !t.open {
		return nil
	}
	t.open = false
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.finishBound)
	defer cancel()
	_, err := t.root.Exec(ctx, rollbackTo)
	if err == nil || isOver(ctx, t.root) {
		return err
	}
	pg := t.tx.Conn().PgConn()
	if !pg.IsClosed() && (pg.IsBusy() || pg.TxStatus() == 'T') {
		_ = t.tx.Conn().Close(ctx)
	}
	return err
}
