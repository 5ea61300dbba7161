package pgidem

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// settleCommit finds out what became of a COMMIT without an answer. The lock was held by its transaction to the end, so what is
// absent behind the lock was not committed; the claim token is changed all the same before the function runs again.
func (t *stepTx) settleCommit(ctx context.Context, cause error) (saved []byte, err error) {
	until := time.Now().Add(2 * t.op.client().config.FinishBound)
	for tries := 1; ; tries++ {
		bounded, cancel := t.op.client().bounded(ctx)
		saved, err = t.findCommit(bounded)
		cancel()
		if err == nil || t.op.lost != nil {
			return saved, err
		}
		if time.Now().After(until) {
			t.op.stopped = &Error{
				Key: t.op.Key(), Kind: ErrUnknownOutcome, Cause: cause,
				Reason: "the answer to the COMMIT of step " + quote(t.name) + " was lost and the operation could not be read since (" + err.Error() + "); ask again with the same key",
			}
			return nil, t.op.stopped
		}
		if pause(context.WithoutCancel(ctx), tries) != nil {
			return nil, err
		}
	}
}

// claimAnew takes the key again where the claim's own transaction was rolled back before anything was committed.
func (t *stepTx) claimAnew(ctx context.Context) ([]byte, error) {
	saved, err := t.findCommit(ctx)
	switch {
	case err == nil, t.op.lost != nil:
		return saved, err
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case isWaitOver(err):
		return nil, again{busy, err}
	}
	return nil, again{brokenClaim, err}
}

// findCommit returns what was committed, nil where nothing was and the step may run again.
func (t *stepTx) findCommit(ctx context.Context) ([]byte, error) {
	op := t.op
	conn, err := op.client().pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	cl := &claim{conn: conn, token: op.token(), bound: op.client().config.FinishBound, granted: true}
	kept := false
	defer func() {
		if !kept {
			cl.rollback(ctx)
		}
	}()
	now, err := op.look(ctx, cl, t.name)
	if err != nil {
		return nil, err
	}
	ours := op.client().registry.wrote(op.running, now.step)
	switch {
	case ours && t.last && now.state == stateSucceeded, ours && !t.last:
		if err := op.call.barrier(ctx, cl); err != nil {
			return nil, err
		}
		if !op.started {
			op.client().claimed(op.running, t.startedBy)
		}
		saved := now.result
		if t.last {
			saved = now.saved
		}
		t.recorded(saved)
		return saved, nil
	case !op.started && (!now.found || now.expired): // StartsWithTx: not even the operation's row; the lock is this transaction's now
		cl.row.found = now.found
		op.first, kept = cl, true
		return nil, nil
	case !op.has(now):
		return nil, op.lose()
	}
	return nil, op.rotate(ctx, cl, now.claim)
}

// rotate replaces the claim token: what is left of the transaction before fails its fence.
func (op *Op) rotate(ctx context.Context, cl *claim, old string) error {
	token := newToken()
	op.client().registry.add(op.running, token, 0) // before it is written: it may be there although no answer comes
	op.call.tokens = append(op.call.tokens, token)
	batch := new(pgx.Batch)
	batch.Queue(dbsqlc.OperationRotate, token, op.Key().Scope, op.Key().ID, old)
	batch.Queue(commit)
	_, err := exchange(ctx, cl.conn, batch)
	return err
}
