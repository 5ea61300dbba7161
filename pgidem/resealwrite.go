package pgidem

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

const notWritten = "a batch of resealed answers could not be saved, and was rolled back"

// write replaces answers in one transaction and returns how many of them were still the ones that were read. Once it has
// a connection it does not follow the caller's context: a short transaction is not worth a connection.
func (p *resealing) write(ctx context.Context, writes *pgx.Batch) (written int, err error) {
	if writes.Len() == 0 {
		return 0, nil
	}
	conn, err := p.client.pool.Acquire(ctx)
	if err != nil {
		return 0, resealError("no connection from the pool", err)
	}
	defer conn.Release()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.client.config.FinishBound)
	defer cancel()
	tx, err := conn.BeginTx(ctx, claimOptions)
	if err != nil {
		return 0, resealError(notWritten, err)
	}
	defer tx.Rollback(ctx)
	results := tx.SendBatch(ctx, writes)
	for range writes.Len() {
		tag, err := results.Exec()
		if err != nil {
			_ = results.Close()
			return 0, resealError(notWritten, err)
		}
		written += int(tag.RowsAffected())
	}
	if err := results.Close(); err != nil {
		return 0, resealError(notWritten, err)
	}
	err = tx.Commit(ctx)
	switch {
	case err == nil:
		return written, nil
	case isDefiniteAbort(err), errors.Is(err, pgx.ErrTxCommitRollback):
		return 0, resealError(notWritten, err)
	default:
		return 0, &Error{Kind: ErrUnknownOutcome, Reason: "resealed answers may or may not be saved; keep the old secret and run Reseal again", Cause: err}
	}
}

// prove commits a write behind answers that were kept. Another pass may have resealed them whose COMMIT was not answered:
// they can be read here, and be gone after a failover, with the old seal back in their place.
func (p *resealing) prove(ctx context.Context) error {
	barrier := new(pgx.Batch)
	barrier.Queue(dbsqlc.ResealBarrier, p.scope)
	written, err := p.write(ctx, barrier)
	if err == nil && written == 0 {
		err = &Error{
			Kind: ErrUnknownOutcome, Reason: "whether kept answers survive a failover cannot be told, because every row of the scope is held or gone; run Reseal again, from the start",
		}
	}
	return err
}

func resealError(reason string, err error) error {
	switch sqlState(err) {
	case undefinedTable, undefinedColumn, insufficientRights:
		return schemaError(Key{}, err)
	case readOnlyTransaction:
		return &Error{Kind: ErrReadOnly, Reason: "connect to the primary", Cause: err}
	}
	return &Error{Kind: ErrUnavailable, Reason: reason, Cause: err}
}
