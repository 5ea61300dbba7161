package pgidem

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// What a probe's failure means. Poolers have one code, 08P01, for what they do not support and for what they cannot do now
// (the server is down, no server connection is free, too many clients), so a setting is blamed only where trying without it
// shows that it is the cause.

// unanswered is a question that got no answer, for which nobody's settings are to blame.
func unanswered(err error, question string) error {
	reason := question + " was not answered"
	if sqlState(err) == protocolViolation {
		reason += ": it needs two connections of the server at once, behind a pooler too"
	}
	return &Error{Kind: ErrUnavailable, Reason: reason, Cause: err}
}

// lockError explains a question about locks that failed.
func lockError(err error, question string) error {
	if sqlState(err) == undefinedFunction {
		return &Error{Kind: ErrLocks, Reason: "the server does not know them", Cause: err}
	}
	return unanswered(err, question)
}

// connectError explains a connection that could not be made.
func (p *prober) connectError(ctx context.Context, err error, reason string) error {
	parameters := p.client.pool.Config().ConnConfig.RuntimeParams
	if len(parameters) > 0 && sqlState(err) == protocolViolation && p.refusesParameters(ctx) {
		return &Error{Kind: ErrPooler, Cause: err, Reason: "it refuses one of the start-up parameters (" +
			strings.Join(slices.Sorted(maps.Keys(parameters)), ", ") +
			"); use pgxpool.ParseConfig instead of PoolConfig, or name them in PgBouncer's ignore_startup_parameters"}
	}
	return &Error{Kind: ErrUnavailable, Reason: reason, Cause: err}
}

// refusesParameters: a connection without them succeeds where those with them keep failing. They are tried several times,
// because a pooler notices only after a moment that the place of a connection which was closed is free again.
func (p *prober) refusesParameters(ctx context.Context) bool {
	for try := range 5 {
		if sqlState(p.tryConnect(ctx)) != protocolViolation || pause(ctx, try+3) != nil {
			return false
		}
	}
	return p.tryConnect(ctx, func(config *pgx.ConnConfig) { config.RuntimeParams = nil }) == nil
}

func (p *prober) tryConnect(ctx context.Context, edits ...func(*pgx.ConnConfig)) error {
	conn, err := p.client.connect(ctx, edits...)
	if err == nil {
		_ = conn.Close(ctx)
	}
	return err
}

// beginError explains a BEGIN that was refused.
func (p *prober) beginError(ctx context.Context, err error) error {
	if p.hasPooler() && sqlState(err) == protocolViolation && p.refusesBegin(ctx) {
		return &Error{Kind: ErrPooler, Cause: err, Reason: "it refuses BEGIN, as in statement pooling; set pool_mode to transaction for this database"}
	}
	return unanswered(err, "the probe's BEGIN")
}

// refusesBegin: a statement succeeds on a connection that then refuses BEGIN. The one that was refused first is closed.
func (p *prober) refusesBegin(ctx context.Context) bool {
	conn, err := p.client.connect(ctx)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := p.askLock(ctx, conn, new([]int32)); err != nil {
		return false
	}
	_, err = conn.Begin(ctx)
	return sqlState(err) == protocolViolation
}
