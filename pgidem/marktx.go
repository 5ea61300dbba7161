package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// MarkOpts are the options of one [MarkTx] call. nil and the zero value mean the client's defaults.
type MarkOpts struct {
	// TTL is how long an ID counts as seen, from this call on. 0 means Config.TTL.
	TTL time.Duration
	// WaitBound is how long to wait for another transaction that has marked one of the IDs and has not ended: each time, if
	// several such transactions are met. The caller's statement_timeout bounds the statement as a whole.
	// 0 means Config.LockTimeout; NoWait means 1 ms, the shortest that the server knows.
	WaitBound time.Duration
}

// MarkTx marks ids as seen inside tx, a transaction that the caller has begun and will end, and returns those that are
// new, in the order in which they first appear in ids and each once. All of them are marked, or none: thousands take one
// round trip and one statement. The marks become real with the caller's COMMIT; the work for the fresh IDs belongs in the
// same transaction. Each ID is a key of its own in scope, of the kind mark; an ID whose mark has expired is new again.
//
// Where another transaction has marked one of the ids and has not ended, MarkTx waits for it within the wait bound, for one after
// the other; then it returns [ErrInProgress], about the scope and no ID. An ID that was used for an operation and has not
// expired is [ErrKeyReused]. Batches that overlap insert in one order and do not wait for each other in a circle, unless marks
// expire meanwhile; then the server ends one wait, and that call goes on by itself, three times in all. Calls
// of transactions that hold other marks or locks already can come to a real deadlock: [ErrDeadlock], after some seconds.
//
// After an error the transaction is as it was before the call and can go on, but in three cases: it was unusable before
// (ErrTxEnded, ErrTxAborted); a statement failed while it was prepared, which comes before the savepoint and aborts the
// transaction, as the error's text says; the connection was lost. A context that ends while MarkTx waits closes the
// connection, as everywhere in pgx, and with it the transaction: prefer WaitBound. A deadline of the context
// shortens each wait, so that a single one ends 25 ms before it.
//
// MarkTx raises synchronous_commit where it is off or local. A caller that lowers it again afterwards (SET LOCAL) gives G3 up.
//
// tx must be READ COMMITTED; the Tx of an operation is fine. An operation with one of the ids that is running, and so has
// no row yet, is not seen: whoever saves first wins.
//
// Besides ctx's cause it returns ErrInvalidKey, ErrInProgress, ErrKeyReused, ErrNested, ErrIsolation, ErrDeadlock, ErrTxEnded,
// ErrTxAborted, ErrTxConcurrent, ErrUnavailable, ErrReadOnly, ErrSchema, ErrClosed and ErrConfig. Without ids nothing is
// sent. At most one opts is accepted.
func MarkTx(ctx context.Context, c *Client, tx pgx.Tx, scope string, ids []string, opts ...*MarkOpts) (fresh []string, err error) {
	about := Key{Scope: scope}
	if c == nil || tx == nil || len(opts) > 1 {
		return nil, &Error{Key: about, Kind: ErrConfig, Reason: "MarkTx needs a client, a transaction and at most one MarkOpts"}
	}
	var o MarkOpts
	if len(opts) == 1 && opts[0] != nil {
		o = *opts[0]
	}
	m := &marking{client: c, ids: ids, bound: o.WaitBound, ttl: o.TTL, callersTx: newCallersTx(tx, about, c.config.FinishBound)}
	if err := m.validate(ctx); err != nil {
		return nil, err
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return nil, aboutKey(about, err)
	}
	defer end()
	if len(ids) == 0 {
		return nil, nil
	}
	if err := m.usable(ctx); err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return m.settle(ctx)
}

// marking is one call.
type marking struct {
	client     *Client
	ids        []string
	ttl, bound time.Duration
	callersTx
}

// validate resolves the options and refuses bad IDs, before any SQL.
func (m *marking) validate(ctx context.Context) error {
	config := m.client.config
	err := atLeast("TTL", &m.ttl, config.TTL, time.Microsecond)
	if m.bound == NoWait {
		m.bound = time.Millisecond
	} else {
		err = errors.Join(err, atLeast("WaitBound", &m.bound, config.LockTimeout, time.Millisecond))
	}
	if err != nil {
		return m.error(ErrConfig, "", err)
	}
	if reason := invalidPart("scope", m.about.Scope); reason != "" { // also where there are no IDs
		return m.error(ErrInvalidKey, reason, nil)
	}
	held := heldBy(ctx)
	for _, id := range m.ids {
		key := Key{m.about.Scope, id}
		if err := key.validate(config.ValidateID); err != nil {
			return err
		}
		if held.holds(m.client, key) {
			return &Error{Key: key, Kind: ErrNested, Reason: "an operation cannot mark its own key"}
		}
	}
	return nil
}

// settle goes round where rows have come, expired or gone between two statements, and where the call was the victim of a
// deadlock: it has told nobody anything yet, and what it locked was taken back.
func (m *marking) settle(ctx context.Context) ([]string, error) {
	for round := 1; ; round++ {
		fresh, err := m.mark(ctx)
		a, more := err.(again) //nolint:errorlint // A signal of this package, never wrapped.
		if !more {
			return fresh, err
		}
		if a.why == lostRace {
			if err := m.other(ctx); err != nil {
				return nil, err
			}
		}
		switch {
		case round < maxRounds:
		case a.why == rerun:
			return nil, m.deadlock(a.error)
		default:
			return nil, m.error(ErrUnavailable, "IDs expired or were forgotten again and again while they were marked; nothing was", nil)
		}
	}
}

// mark is one pass. It takes no advisory locks: thousands of them would fill the server's lock table; the unique
// row does without. Where it asks for another pass, everything was taken back.
func (m *marking) mark(ctx context.Context) (fresh []string, err error) {
	defer m.rollback(ctx)
	scope, token := m.about.Scope, newToken()
	batch := new(pgx.Batch)
	batch.Queue(savepoint)
	batch.Queue(dbsqlc.TxState)
	batch.Queue(dbsqlc.TxBound, lockTimeoutSetting(ctx, m.bound))
	batch.Queue(dbsqlc.MarkDropExpired, scope, m.ids)
	batch.Queue(dbsqlc.MarkSave, scope, token, interval(m.ttl), m.ids)
	batch.Queue(dbsqlc.MarkCheck, m.ids, scope, token)
	batch.Queue(dbsqlc.TxUnbound)
	batch.Queue(release)
	marked := make(map[string]bool, len(m.ids))
	at, err := m.send(ctx, batch, map[string]func(pgx.BatchResults) error{
		dbsqlc.MarkSave: func(r pgx.BatchResults) error {
			rows, _ := r.Query() // its error is the rows'
			var id string
			_, err := pgx.ForEachRow(rows, []any{&id}, func() error {
				marked[id] = true
				return nil
			})
			return err
		},
	})
	switch {
	case err != nil && at == dbsqlc.MarkCheck && sqlState(err) == divisionByZero && m.fits() == nil:
		return nil, again{lostRace, err}
	case sqlState(err) == deadlockDetected && m.open && ctx.Err() == nil:
		return nil, again{rerun, err}
	case err != nil:
		return nil, m.explain(ctx, at, err)
	}
	for _, id := range m.ids {
		if marked[id] {
			marked[id] = false // the first of several
			fresh = append(fresh, id)
		}
	}
	return fresh, m.fits()
}

// other returns ErrKeyReused about the first ID that has a row of another kind; nil where only time stood in the way.
func (m *marking) other(ctx context.Context) error {
	defer m.rollback(ctx)
	key, kind := m.about, ""
	batch := new(pgx.Batch)
	batch.Queue(savepoint)
	batch.Queue(dbsqlc.MarkOther, m.about.Scope, m.ids)
	batch.Queue(release)
	at, err := m.send(ctx, batch, map[string]func(pgx.BatchResults) error{
		dbsqlc.MarkOther: func(r pgx.BatchResults) error {
			err := r.QueryRow().Scan(&key.ID, &kind)
			if errors.Is(err, pgx.ErrNoRows) {
				err = nil
			}
			return err
		},
	})
	switch {
	case err != nil:
		return m.explain(ctx, at, err)
	case kind != "":
		return &Error{Key: key, Kind: ErrKeyReused, Reason: "it belongs to an operation of kind " + kind + ", and nothing was marked; use another scope for marks"}
	}
	return nil
}
