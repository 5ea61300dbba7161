package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// write is what an owner commits in one round trip: statements that raise where the claim is lost.
type write struct {
	queue func(b *pgx.Batch, token string)
	// step is the step that it records, "" where none.
	step string
	// state is what the row's state is behind it, where that changes.
	state string
}

// unsettled is the error of a write that may or may not be committed when its bound is over.
type unsettled struct{ error }

func (u unsettled) Unwrap() error { return u.error }

// write commits w under the fence. What gets no answer is sent again: what came through the first time makes the second raise, and is
// then found. The error is op.lost where somebody else has the operation, unsettled where the bound is over, and else what the
// server says to the statements.
func (op *Op) write(ctx context.Context, w write) error {
	return op.writeUntil(ctx, time.Now().Add(2*op.client().config.FinishBound), w)
}

// writeUntil tries at least once.
func (op *Op) writeUntil(ctx context.Context, until time.Time, w write) error {
	for tries := 1; ; tries++ {
		bounded, cancel := op.client().bounded(ctx)
		err := op.writeOnce(bounded, w)
		if isLostFence(err) {
			err = op.find(bounded, w)
		}
		cancel()
		switch {
		case err == nil, op.lost != nil, isDefinite(err):
			return err
		case time.Now().After(until):
			return unsettled{err}
		}
		if err := pause(context.WithoutCancel(ctx), tries); err != nil {
			return err
		}
	}
}

// errStillOurs: a part of the write was there already, and the fence has raised because of that.
var errStillOurs = errors.New("the fence has raised, but the operation is this run's")

// anyTable is for statements that no function of the caller's runs before: the table's name means what it meant at the claim.
const anyTable = int64(0)

// bounded is a context for what must not be cut short by the caller's.
func (c *Client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), c.config.FinishBound)
}

func (op *Op) writeOnce(ctx context.Context, w write) error {
	conn, err := op.client().pool.Acquire(ctx)
	if err != nil {
		return err
	}
	cl := &claim{conn: conn, bound: op.client().config.FinishBound}
	defer cl.rollback(ctx)
	token := op.token()
	batch := new(pgx.Batch)
	batch.BeginTx(claimOptions)
	op.queueLock(ctx, batch, token)
	w.queue(batch, token)
	var tagged *instance
	if w.state == "" { // the operation goes on; behind the fence, which holds the row
		tagged = op.queueTag(batch, token)
	}
	batch.Queue(commit)
	if _, err = exchange(ctx, conn, batch); err == nil && tagged != nil {
		op.client().claimed(op.running, tagged)
	}
	return err
}

// queueTag tags the row with the client's new instance, where the tagger has not come to it yet: it passes over rows that a step's
// transaction holds, and whoever waits for that transaction would find a dead owner behind it.
func (op *Op) queueTag(batch *pgx.Batch, token string) *instance {
	in := op.client().liveness.get()
	if in == nil || !op.started || !op.client().registry.stale(op.running, in.generation) {
		return nil
	}
	high, low := in.halves()
	batch.Queue(dbsqlc.OwnerRetag, high, low, in.id, op.Key().Scope, op.Key().ID, token)
	return in
}

// queueLock waits for the key's lock within lock_timeout, so that a write never overlaps with a claim or a step's transaction.
func (op *Op) queueLock(ctx context.Context, batch *pgx.Batch, token string) *pgx.QueuedQuery {
	return batch.Queue(op.client().lockSQL, lockTimeoutSetting(ctx, op.client().config.LockTimeout), op.call.lock, token)
}

// isLostFence reports that a fenced statement has met no row, or a step that is recorded.
func isLostFence(err error) bool {
	return sqlState(err) == divisionByZero || isFence(err, "claim") || isFence(err, "ordinal")
}

// isDefinite reports an answer of the server that sending the same again would not change.
func isDefinite(err error) bool {
	switch sqlState(err) {
	case "", serializationFailure, deadlockDetected, lockNotAvailable, queryCanceled:
		return false
	}
	return isDefiniteAbort(err) && !isOwnerless(err)
}

// find looks for a write behind which the fence was lost: it is there, and made durable, or somebody else has the operation.
func (op *Op) find(ctx context.Context, w write) error {
	conn, err := op.client().pool.Acquire(ctx)
	if err != nil {
		return err
	}
	cl := &claim{conn: conn, token: op.token(), bound: op.client().config.FinishBound}
	defer cl.rollback(ctx)
	now, err := op.look(ctx, cl, w.step)
	if err != nil {
		return err
	}
	switch {
	case op.landed(now, w):
		return op.call.barrier(ctx, cl)
	case op.has(now):
		return errStillOurs
	}
	return op.lose()
}

// has reports that the operation is in this run's hands.
func (op *Op) has(now standing) bool {
	return (now.state == stateRunning || now.state == stateUndoing) && op.client().registry.wrote(op.running, now.claim)
}

// standing is an operation as its owner finds it when an answer was lost.
type standing struct {
	found   bool
	expired bool
	state   string
	claim   string
	step    string // the claim under which the step in question is recorded, "" where it is not
	result  []byte // of that step
	saved   []byte // the operation's result
}

// look takes the lock, which the lost transaction held or is still waiting for, and reads what there is.
func (op *Op) look(ctx context.Context, cl *claim, step string) (standing, error) {
	var now standing
	batch := new(pgx.Batch)
	batch.BeginTx(claimOptions)
	op.queueLock(ctx, batch, cl.token).QueryRow(func(row pgx.Row) error { return row.Scan(nil, nil, nil, nil, nil, &cl.table) })
	batch.Queue(dbsqlc.OwnerOf, op.Key().Scope, op.Key().ID).QueryRow(func(row pgx.Row) error {
		var of dbsqlc.OwnerOfRow
		err := row.Scan(&of.State, &of.Claim, &of.Owner, &of.Result, &of.Expired)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		now.found, now.state, now.claim, now.saved, now.expired = true, of.State, formatUUID(of.Claim.Bytes), of.Result, of.Expired
		return err
	})
	batch.Queue(dbsqlc.StepFind, op.Key().Scope, op.Key().ID, step).QueryRow(func(row pgx.Row) error {
		var find dbsqlc.StepFindRow
		err := row.Scan(&find.Claim, &find.Result)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		now.step, now.result = formatUUID(find.Claim.Bytes), find.Result
		return err
	})
	results := cl.conn.SendBatch(ctx, batch)
	err := results.Close()
	cl.tx = results.Tx()
	return now, err
}

// landed reports whether w is what the database has: under any token that this run ever wrote.
func (op *Op) landed(now standing, w write) bool {
	ours := func(token string) bool { return op.client().registry.wrote(op.running, token) }
	switch {
	case w.step != "" && !ours(now.step):
		return false
	case w.state == "": // what comes behind it does not matter
		return w.step != ""
	case !now.found:
		return w.state == stateReleased // a released operation in which nothing happened is dropped
	default:
		return ours(now.claim) && now.state == w.state
	}
}

// lose says that somebody else has taken the operation over.
func (op *Op) lose() error {
	if op.lost == nil {
		op.lost = &Error{Key: op.Key(), Kind: ErrTakenOver, Reason: "what this run has not recorded yet is not saved"}
		op.client().registry.lose(op.running, op.lost)
	}
	return op.lost
}
