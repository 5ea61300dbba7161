package pgidem

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// claimOptions pins what a server's or a role's defaults could change: at a higher level than READ COMMITTED the
// statement that reads the key would see the database as it was before the lock was granted, and run the work twice.
var claimOptions = pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite}

// claim is an open transaction in which the key's lock was asked for and then, in a statement of its own, the key
// was read. It writes nothing yet: the row that a claim leaves is written together with the outcome.
type claim struct {
	conn    *pgxpool.Conn
	tx      pgx.Tx
	token   string
	granted bool   // whether the lock is ours; a lock that was refused proves nothing about the row
	row     keyRow // as read behind the lock
	bound   time.Duration

	table int64 // that the name meant at the claim; the outcome must be saved where it was looked for
}

// keyRow is the key as the database has it; found is false where there is none.
type keyRow struct {
	dbsqlc.KeyReadRow
	found bool
}

// settled reports an outcome that can be replayed.
func (r keyRow) settled() bool { return r.State == stateSucceeded || r.State == stateFailed }

func (r keyRow) fingerprint() Fingerprint {
	return Fingerprint{algorithm: r.FingerprintAlgorithm, digest: r.Fingerprint}
}

// left is how long the row still lived when it was read. One may be kept for ever, or for longer than Go can say.
func (r keyRow) left() time.Duration {
	const longest = math.MaxInt64 / time.Second
	return time.Duration(max(0, min(r.SecondsLeft, float64(longest))) * float64(time.Second))
}

// claim asks for the lock, waiting in the server until then (zero: not at all), and reads the key, in one round trip.
func (e *execution) claim(ctx context.Context, until time.Time) (*claim, error) {
	bound := until
	if until.IsZero() {
		bound = e.acquireBound()
	}
	conn, err := e.acquire(ctx, bound)
	if err != nil {
		return nil, err
	}
	cl := &claim{conn: conn, token: newToken(), granted: true, bound: e.client.config.FinishBound}
	batch := new(pgx.Batch)
	batch.BeginTx(claimOptions)
	if until.IsZero() {
		batch.Queue(e.client.tryLockSQL, e.lock, cl.token)
	} else {
		batch.Queue(e.client.lockSQL, e.lockTimeout(ctx, until), e.lock, cl.token)
	}
	batch.Queue(dbsqlc.KeyRead, e.key.Scope, e.key.ID)

	results := conn.SendBatch(ctx, batch)
	err = cl.read(results, until.IsZero())
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		lost := conn.Conn().IsClosed()
		cl.rollback(ctx)
		return nil, e.claimError(ctx, err, lost)
	}
	cl.tx = results.Tx()
	return cl, nil
}

func (cl *claim) read(results pgx.BatchResults, try bool) error {
	if _, err := results.Exec(); err != nil {
		return atBegin{err}
	}
	if try {
		if err := results.QueryRow().Scan(&cl.granted, nil, &cl.table); err != nil {
			return atLock{err}
		}
	} else if err := results.QueryRow().Scan(nil, nil, nil, nil, nil, &cl.table); err != nil {
		return atLock{err}
	}
	row, err := scanKey(results.QueryRow())
	cl.row = row
	return err
}

// scanKey reads the columns of KeyRead; no row is not an error.
func scanKey(from pgx.Row) (keyRow, error) {
	r := keyRow{found: true}
	err := from.Scan(&r.Kind, &r.State, &r.Claim, &r.Attempt, &r.FingerprintAlgorithm, &r.Fingerprint,
		&r.Result, &r.Error, &r.Expired, &r.SecondsLeft)
	if errors.Is(err, pgx.ErrNoRows) {
		return keyRow{}, nil
	}
	return r, err
}

// Where in the batch an error struck: the same SQLSTATE means different things at different statements.
type (
	atBegin struct{ error }
	atLock  struct{ error }
)

func (e atBegin) Unwrap() error { return e.error }
func (e atLock) Unwrap() error  { return e.error }

// claimError translates what can go wrong before anything ran.
func (e *execution) claimError(ctx context.Context, err error, lost bool) error {
	code := sqlState(err)
	var begin atBegin
	var lock atLock
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &begin) && isReadOnly(err):
		return &Error{Key: e.key, Kind: ErrReadOnly, Reason: "connect to the primary", Cause: err}
	case errors.As(err, &lock) && isWaitOver(err):
		return again{busy, err} // statement_timeout while waiting is a wait that ended, like lock_timeout
	case lost, code == featureNotSupported: // the latter: a prepared plan that a migration has outdated; pgx drops it
		return again{brokenClaim, err}
	case isRerunnable(err):
		return again{rerun, err}
	default:
		return schemaError(e.key, err)
	}
}

// schemaError explains the errors of a database that was not prepared, or of another release's.
func schemaError(key Key, err error) error {
	switch sqlState(err) {
	case undefinedTable:
		return &Error{Key: key, Kind: ErrSchema, Reason: "a table of pgidem is missing in search_path; " + migrateHint, Cause: err}
	case undefinedColumn:
		return &Error{Key: key, Kind: ErrSchema, Reason: "the schema is of another release; " + migrateHint, Cause: err}
	case insufficientRights:
		return &Error{Key: key, Kind: ErrSchema, Reason: grantHint, Cause: err}
	}
	return &Error{Key: key, Kind: ErrUnavailable, Reason: "the key could not be read", Cause: err}
}

// rollback ends the claim's transaction, unless it has ended, and gives the connection back. It does not follow the
// caller's context: an open transaction would keep the key's lock. Where it cannot be sent, closing the
// connection, which Release does, makes the server roll back.
func (cl *claim) rollback(ctx context.Context) {
	defer cl.conn.Release()
	if cl.inTransaction() {
		_ = cl.end(ctx) // Release closes a connection that is still in a transaction.
	}
}

func (cl *claim) end(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cl.bound)
	defer cancel()
	return cl.conn.Conn().PgConn().Exec(ctx, "ROLLBACK").Close()
}

// inTransaction reports whether the connection works and is in a transaction, so that COMMIT was not executed.
func (cl *claim) inTransaction() bool {
	pg := cl.conn.Conn().PgConn()
	return !pg.IsClosed() && !pg.IsBusy() && pg.TxStatus() != 'I'
}
