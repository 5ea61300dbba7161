package pgidem

import (
	"bytes"
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// DefaultResealBatch is how many answers [Client.Reseal] handles in one transaction.
const DefaultResealBatch = 100

// Resealer is a [Sealer] that can seal saved answers anew, with the secret that new answers are sealed with now.
type Resealer interface {
	Sealer
	// Reseal returns bytes that Open reads as it reads sealed, or nil where sealed may stay. Where sealed cannot be opened
	// any more it returns an error that is [ErrResult]: the answer is lost, and the others are still resealed.
	// Every other error ends the pass.
	Reseal(ctx context.Context, key Key, part Part, sealed []byte) ([]byte, error)
}

// ResealOpts are the options of one [Client.Reseal] call. nil and the zero value mean a pass over the whole scope.
type ResealOpts struct {
	// After is the ID behind which to begin: the Last of an earlier pass that was interrupted.
	After string
	// Batch is how many answers are read, kept in memory, and written in one transaction. 0 means DefaultResealBatch (100).
	Batch int
	// Progress is called behind every batch, with what was done so far; nil calls nothing.
	Progress func(ResealReport)
}

// ResealReport counts what one pass has done with a scope's saved answers.
type ResealReport struct {
	// Resealed answers were sealed anew.
	Resealed int
	// Kept answers had the right seal already.
	Kept int
	// Missed answers were changed, or held by another transaction, while they were resealed. They were left as they are; run
	// another pass.
	Missed int
	// Lost answers cannot be opened any more: their secret was destroyed, or they were changed by hand.
	Lost int
	// Last is the ID of the last answer that was dealt with, for ResealOpts.After, and that option's until there was one.
	Last string
}

// Reseal seals the saved results and failures of a scope anew, so that an old secret can be destroyed before the answers
// expire. Config.Sealer must be a [Resealer]. What callers get for their keys stays the same, and they need not
// wait: a pass goes through the IDs in order, in short transactions, holds no lock of a key, and changes only what is still
// there as it was read. Answers that expire, are forgotten, or are saved meanwhile are left alone; so are operations of several steps that are not
// finished: see to it that they are before an old secret is destroyed, or they cannot be resumed.
//
// A pass that ends early, because ctx ended or with another error, returns what it has done; the next one may begin there.
// Run passes until one has neither Resealed nor Missed answers, the last one after every operation that began with the old
// secret has ended. Several passes at once do no harm.
//
// A pass returns nil only behind a COMMIT that was answered, also where every answer was Kept: what it leaves survives a
// failover as new answers do (G3). ErrUnknownOutcome is that this could not be had, for example because a synchronous
// standby is away; the old secret is still needed then, and the pass is to be run again.
//
// What the sealer cannot do ends the pass as ErrResult with its error as the cause and the key in [Error].Key: the
// answer is unharmed. Where it is to be skipped, begin the next pass After that key's ID.
//
// Besides these and ctx's cause it returns ErrInvalidKey, ErrUnavailable, ErrReadOnly, ErrSchema, ErrLocks, ErrPooler,
// ErrClosed, and ErrConfig, also for a sealer that makes other answers of them. At most one opts is accepted.
func (c *Client) Reseal(ctx context.Context, scope string, opts ...*ResealOpts) (ResealReport, error) {
	if reason := invalidPart("scope", scope); reason != "" {
		return ResealReport{}, &Error{Key: Key{Scope: scope}, Kind: ErrInvalidKey, Reason: reason}
	}
	p, err := c.newResealing(scope, opts)
	if err != nil {
		return ResealReport{}, err
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return p.report, err
	}
	defer end()
	ctx, cancel := c.boundNested(ctx)
	defer cancel()
	if err := c.probeOnce(ctx); err != nil {
		return p.report, err
	}
	err = p.pass(ctx)
	if err != nil && ctx.Err() != nil && !errors.Is(err, ErrUnknownOutcome) {
		err = context.Cause(ctx)
	}
	return p.report, err
}

// resealing is one pass over a scope.
type resealing struct {
	client   *Client
	sealer   Resealer
	scope    string
	batch    int
	progress func(ResealReport)
	report   ResealReport
	unproven bool // whether an answer was kept, here or before After, and nothing was committed since
}

func (c *Client) newResealing(scope string, opts []*ResealOpts) (*resealing, error) {
	var o ResealOpts
	if len(opts) == 1 && opts[0] != nil {
		o = *opts[0]
	}
	sealer, can := c.config.Sealer.(Resealer)
	err := atLeast("Batch", &o.Batch, DefaultResealBatch, 1)
	switch {
	case !can:
		return nil, &Error{Kind: ErrConfig, Reason: "Reseal needs a Config.Sealer that is a Resealer"}
	case len(opts) > 1:
		return nil, &Error{Kind: ErrConfig, Reason: "Reseal takes at most one ResealOpts"}
	case err != nil:
		return nil, &Error{Kind: ErrConfig, Cause: err}
	case o.After != "" && invalidPart("After", o.After) != "":
		return nil, &Error{Kind: ErrConfig, Reason: invalidPart("After", o.After)}
	}
	p := &resealing{client: c, sealer: sealer, scope: scope, batch: o.Batch, progress: o.Progress, unproven: o.After != ""}
	p.report.Last = o.After
	return p, nil
}

func (p *resealing) pass(ctx context.Context) error {
	for {
		rows, err := dbsqlc.New().ResealRead(ctx, p.client.pool, dbsqlc.ResealReadParams{
			Scope: p.scope, After: p.report.Last, Batch: int32(min(p.batch, 1<<30)), //nolint:gosec // It is in range.
		})
		if err != nil {
			return resealError("a scope's answers could not be read", err)
		}
		if len(rows) == 0 && p.unproven {
			return p.prove(ctx)
		}
		if len(rows) == 0 {
			return nil
		}
		if err := p.reseal(ctx, rows); err != nil {
			return err
		}
		if p.progress != nil {
			p.progress(p.report)
		}
	}
}

// reseal deals with one batch, which counts when it is committed.
func (p *resealing) reseal(ctx context.Context, rows []dbsqlc.ResealReadRow) error {
	next := p.report
	writes := new(pgx.Batch)
	for _, row := range rows {
		key, part := Key{p.scope, row.ID}, PartResult
		if row.Failed {
			part = PartFailure
		}
		resealed, lost, err := p.anew(ctx, key, part, row.Sealed)
		switch {
		case err != nil:
			return err
		case lost:
			next.Lost++
		case resealed == nil:
			next.Kept++
			p.unproven = true
		default:
			writes.Queue(dbsqlc.ResealWrite, resealed, key.Scope, key.ID, row.Sealed)
		}
	}
	written, err := p.write(ctx, writes)
	if err != nil {
		return err
	}
	if written > 0 {
		p.unproven = false
	}
	next.Resealed += written
	next.Missed += writes.Len() - written
	next.Last = rows[len(rows)-1].ID
	p.report = next
	return nil
}

// anew seals one answer anew and opens it in both forms: what callers get must not change. It returns nil where the
// answer may stay as it is.
func (p *resealing) anew(ctx context.Context, key Key, part Part, sealed []byte) (resealed []byte, lost bool, err error) {
	resealed, err = p.sealer.Reseal(ctx, key, part, bytes.Clone(sealed))
	switch {
	case errors.Is(err, ErrResult):
		return nil, true, nil
	case err != nil:
		return nil, false, resultError(key, "the answer cannot be resealed; nothing was changed", err)
	case resealed == nil:
		return nil, false, nil
	}
	before, err := p.sealer.Open(ctx, key, part, bytes.Clone(sealed))
	if err != nil {
		return nil, false, resultError(key, "the answer that was resealed cannot be opened; nothing was changed", err)
	}
	after, err := p.sealer.Open(ctx, key, part, bytes.Clone(resealed))
	if err != nil {
		return nil, false, resultError(key, "the new seal of the answer cannot be opened; nothing was changed", err)
	}
	if !bytes.Equal(before, after) {
		return nil, false, &Error{Key: key, Kind: ErrConfig, Reason: "Config.Sealer has made another answer of it while resealing; nothing was changed"}
	}
	return resealed, false, nil
}
