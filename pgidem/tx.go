package pgidem

import (
	"context"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// Tx is the transaction of an operation: a [pgx.Tx], so that sqlc's and your own queries take it, with two
// differences. The library ends it: Commit and Rollback are refused with [ErrTxEnded], as is every use after the
// function has returned. And it takes [Tx.Last]. Begin opens a savepoint, as in pgx.
//
// A Tx is for one goroutine at a time ([ErrTxConcurrent]). What Conn and LargeObjects return is pgx's own and is not
// guarded: do not keep it.
type Tx struct {
	guardedTx
	last *[]statement
}

type statement struct {
	sql  string
	args []any
}

// Last hands over a statement that needs no answer: it travels with the saved result and COMMIT in one round trip,
// after every other statement of the function and in the order of the calls. Its error fails the operation like an
// error of the function. Its row count is not seen: a statement that must hit has to raise by itself.
func (t Tx) Last(sql string, args ...any) error {
	if err := t.guard.enter(); err != nil {
		return err
	}
	defer t.guard.leave()
	*t.last = append(*t.last, statement{sql, args})
	return nil
}

// Commit is refused: the library commits when the function has returned.
func (t Tx) Commit(context.Context) error {
	return &Error{Key: t.guard.key, Kind: ErrTxEnded, Reason: "return nil instead of calling Commit"}
}

// Rollback is refused: the library rolls back when the function returns an error.
func (t Tx) Rollback(context.Context) error {
	return &Error{Key: t.guard.key, Kind: ErrTxEnded, Reason: "return an error instead of calling Rollback"}
}

// newTx wraps the transaction that a claim has begun.
func newTx(key Key, tx pgx.Tx) Tx {
	return Tx{guardedTx{&txGuard{key: key}, tx}, new([]statement)}
}

// end closes the Tx for the function and returns the statements it handed over. A statement that another goroutine
// still has in flight is cancelled and waited for, because the connection cannot be used before, and reported.
func (t Tx) end(cancel context.CancelFunc) ([]statement, error) {
	busy := !t.guard.mu.TryLock()
	if busy {
		cancel()
		t.guard.mu.Lock()
	}
	defer t.guard.mu.Unlock()
	t.guard.ended = true
	if busy {
		return nil, &Error{
			Key: t.guard.key, Kind: ErrTxConcurrent,
			Reason: "the function returned while another goroutine used its transaction; everything was rolled back",
		}
	}
	return *t.last, nil
}

// txGuard stands before every statement. pgx does not know that the library's COMMIT has ended its transaction, and
// would run a late statement on a connection that somebody else may have got from the pool since.
type txGuard struct {
	key   Key
	mu    sync.Mutex
	ended bool
}

func (g *txGuard) enter() error {
	if !g.mu.TryLock() {
		return &Error{Key: g.key, Kind: ErrTxConcurrent, Reason: "the statement was refused"}
	}
	if g.ended {
		g.mu.Unlock()
		return &Error{Key: g.key, Kind: ErrTxEnded, Reason: "the function has returned; the statement was refused"}
	}
	return nil
}

func (g *txGuard) leave() { g.mu.Unlock() }

// guardedTx is a transaction, or a savepoint inside it, behind the guard.
type guardedTx struct {
	guard *txGuard
	tx    pgx.Tx
}

func (t guardedTx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := t.guard.enter(); err != nil {
		return nil, err
	}
	defer t.guard.leave()
	savepoint, err := t.tx.Begin(ctx)
	if err != nil {
		return nil, err
	}
	return guardedTx{t.guard, savepoint}, nil
}

// Commit releases a savepoint; [Tx] has its own.
func (t guardedTx) Commit(ctx context.Context) error {
	if err := t.guard.enter(); err != nil {
		return err
	}
	defer t.guard.leave()
	return t.tx.Commit(ctx)
}

// Rollback rolls back to a savepoint; [Tx] has its own.
func (t guardedTx) Rollback(ctx context.Context) error {
	if err := t.guard.enter(); err != nil {
		return err
	}
	defer t.guard.leave()
	return t.tx.Rollback(ctx)
}

func (t guardedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := t.guard.enter(); err != nil {
		return pgconn.CommandTag{}, err
	}
	defer t.guard.leave()
	return t.tx.Exec(ctx, sql, args...)
}

func (t guardedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := t.guard.enter(); err != nil {
		return failedRows{err}, err
	}
	defer t.guard.leave()
	return t.tx.Query(ctx, sql, args...) //nolint:sqlclosecheck // The caller closes its rows.
}

func (t guardedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := t.guard.enter(); err != nil {
		return failedRows{err}
	}
	defer t.guard.leave()
	return t.tx.QueryRow(ctx, sql, args...)
}

func (t guardedTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := t.guard.enter(); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	defer t.guard.leave()
	return t.tx.SendBatch(ctx, b)
}

func (t guardedTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if err := t.guard.enter(); err != nil {
		return 0, err
	}
	defer t.guard.leave()
	return t.tx.CopyFrom(ctx, table, columns, rows)
}

func (t guardedTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := t.guard.enter(); err != nil {
		return nil, err
	}
	defer t.guard.leave()
	return t.tx.Prepare(ctx, name, sql)
}

func (t guardedTx) LargeObjects() pgx.LargeObjects { return t.tx.LargeObjects() }

func (t guardedTx) Conn() *pgx.Conn { return t.tx.Conn() }

// failedRows is the answer to a query that was refused.
type failedRows struct{ err error }

func (r failedRows) Close()                                       {}
func (r failedRows) Err() error                                   { return r.err }
func (r failedRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (r failedRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (r failedRows) Next() bool                                   { return false }
func (r failedRows) Scan(...any) error                            { return r.err }
func (r failedRows) Values() ([]any, error)                       { return nil, r.err }
func (r failedRows) RawValues() [][]byte                          { return nil }
func (r failedRows) Conn() *pgx.Conn                              { return nil }
func (r failedRows) TypeMap() *pgtype.Map                         { return nil }
