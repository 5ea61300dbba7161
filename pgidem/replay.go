package pgidem

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// outcome is what a key's row says once it is settled: the saved bytes or the saved failure, and for which request.
type outcome struct {
	kind        string // for those who wait in memory
	result      []byte
	failure     *Failure
	fingerprint Fingerprint
	attempt     int
	replayed    bool
	resumed     string // the recovery point at which this call took the operation up

	savedFailure []byte        // failure's bytes, for the cache
	left         time.Duration // to live for the row that was read, by the database's clock; 0 where none was
}

// forOthers is the outcome as a replay: the cause of a failure is the first caller's alone, and so is what that caller
// does to the details.
func (o outcome) forOthers() outcome {
	o.replayed = true
	o.resumed = ""
	o.left = 0
	if o.failure != nil {
		f := *o.failure
		f.cause = nil
		f.Details = maps.Clone(f.Details)
		o.failure = &f
	}
	return o
}

// saved reads the outcome out of a settled row.
func (e *execution) saved(ctx context.Context, row keyRow) (outcome, error) {
	out := outcome{
		result: row.Result, fingerprint: row.fingerprint(), attempt: int(row.Attempt), replayed: !e.wrote(row),
		savedFailure: row.Error, left: row.left(),
	}
	if row.State == stateSucceeded {
		return out, nil
	}
	failure, err := e.client.decodeFailure(ctx, e.key, row.Error)
	if err != nil {
		return outcome{}, err
	}
	if !out.replayed && e.failure != nil {
		failure.cause = e.failure.cause
	}
	out.failure = failure
	return out, nil
}

// replay answers from the saved row. The claim ends before the row is read: a sealer may take its time.
func (e *execution) replay(ctx context.Context, cl *claim) (outcome, error) {
	if err := e.settled(ctx, cl); err != nil {
		return outcome{}, err
	}
	return e.saved(ctx, cl.row)
}

// settled ends a claim that found the outcome, behind a barrier where its durability is unknown.
func (e *execution) settled(ctx context.Context, cl *claim) error {
	defer cl.rollback(ctx)
	if e.unknown == nil {
		return nil
	}
	if err := e.barrier(ctx, cl); err != nil {
		return again{failedBarrier, err}
	}
	e.unknown = nil
	return nil
}

// barrier commits a write to the row behind an outcome whose durability is unknown. Its COMMIT waits for all that was
// written before it, also for a synchronous standby, so what is acknowledged afterwards survives as G3 says.
func (e *execution) barrier(ctx context.Context, cl *claim) error {
	batch := new(pgx.Batch)
	batch.Queue(dbsqlc.KeyBarrier, e.key.Scope, e.key.ID)
	batch.Queue("COMMIT")
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), e.client.config.FinishBound)
	defer cancel()
	results := cl.conn.SendBatch(bounded, batch)
	var raised string
	err := results.QueryRow().Scan(&raised) // no row, no write, no barrier
	return errors.Join(err, results.Close())
}

// peek answers a settled key in one round trip, for callers that know of an earlier try. A row that is visible is
// committed, so no lock is needed; anything but a settled row goes the ordinary way.
func (e *execution) peek(ctx context.Context) (outcome, bool, error) {
	conn, err := e.acquire(ctx, e.acquireBound())
	if err != nil {
		return outcome{}, false, err
	}
	row, err := scanKey(conn.QueryRow(ctx, dbsqlc.KeyRead, e.key.Scope, e.key.ID))
	conn.Release()
	if err != nil || !row.found {
		return outcome{}, false, nil //nolint:nilerr // The ordinary way meets the same error and explains it.
	}
	v, err := e.decide(&claim{row: row})
	if err != nil || v != replayIt {
		return outcome{}, false, err
	}
	out, err := e.saved(ctx, row)
	return out, true, err
}
