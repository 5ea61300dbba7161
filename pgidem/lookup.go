package pgidem

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// Record is what is saved under a key.
type Record[T any] struct {
	Key Key
	// Kind is "tx", "steps" or "mark".
	Kind string
	// State is "running", "undoing", "released", "parked", "succeeded", "failed" or "tombstone".
	State string
	// Attempt is how many times the key was claimed.
	Attempt int
	// RecoveryPoint is the last recorded step of an operation of several steps.
	RecoveryPoint string
	// Value is the result, the zero value unless State is "succeeded".
	Value T
	// Failure is the saved failure, nil unless State is "failed", or the operation is, or was, being undone for it.
	Failure *Failure
	// Parked is why the operation is parked, nil unless State is "parked".
	Parked *Failure
	// Claim is the claim token of the key's last claim, for a [Decision].
	Claim string
	// Created and Updated are times of the database's clock, as are the following.
	Created, Updated time.Time
	// Finished and Expires are zero unless the operation is finished. Finished rows are replaced or removed after
	// Expires; Expired says whether that time has come.
	Finished, Expires time.Time
	Expired           bool
}

// Lookup reads what is saved under key without claiming it: it neither runs nor waits, and does not see an operation
// of one transaction before its COMMIT. An expired row that is still there is returned with Expired set.
// Returns ErrNotFound, ErrResult (with everything but the value), ErrInvalidKey, ErrUnavailable, ErrSchema, ErrClosed.
func Lookup[T any](ctx context.Context, c *Client, key Key) (Record[T], error) {
	row, err := c.lookup(ctx, key)
	if err != nil {
		return Record[T]{}, err
	}
	record := Record[T]{
		Key: key, Kind: row.Kind, State: row.State, Attempt: int(row.Attempt), RecoveryPoint: orZero(row.RecoveryPoint),
		Claim:   formatUUID(row.Claim.Bytes),
		Created: row.CreatedAt, Updated: row.UpdatedAt,
		Finished: orZero(row.FinishedAt), Expires: orZero(row.ExpiresAt), Expired: row.Expired,
	}
	switch {
	case row.State == stateSucceeded && row.Result != nil:
		record.Value, err = decodeResult[T](ctx, c, key, row.Result)
	case row.Error != nil:
		record.Failure, err = c.decodeFailure(ctx, key, row.Error)
	}
	if err == nil && row.Parked != nil {
		record.Parked, err = c.decodeParked(ctx, key, row.Parked)
	}
	return record, err
}

func (c *Client) lookup(ctx context.Context, key Key) (dbsqlc.KeyLookupRow, error) {
	var none dbsqlc.KeyLookupRow
	if err := key.validate(c.config.ValidateID); err != nil {
		return none, err
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return none, aboutKey(key, err)
	}
	defer end()
	ctx, cancel := c.boundNested(ctx)
	defer cancel()
	row, err := dbsqlc.New().KeyLookup(ctx, c.pool, dbsqlc.KeyLookupParams{Scope: key.Scope, ID: key.ID})
	switch {
	case err == nil:
		return row, nil
	case errors.Is(err, pgx.ErrNoRows):
		return none, &Error{Key: key, Kind: ErrNotFound}
	case ctx.Err() != nil:
		return none, aboutKey(key, context.Cause(ctx))
	default:
		return none, schemaError(key, err)
	}
}

func orZero[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
