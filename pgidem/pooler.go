package pgidem

import (
	"context"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// What ProbeReport.Pooler says.
const (
	poolerTransaction = "transaction"
	poolerSession     = "session"
)

// poolerRounds of three questions are asked before a pooler is taken for one in session mode.
const poolerRounds = 6

// hasPooler: poolers invent the process number that they tell a client, because it stands for no backend.
func (p *prober) hasPooler() bool {
	return uint32(p.backends[0]) != p.pooled.Conn().PgConn().PID() //nolint:gosec // The same 32 bits, as pgx has them.
}

// prepare asks whether a statement keeps its name, inside a transaction and therefore in one backend. A pooler that
// tracks prepared statements gives them names of its own.
func (p *prober) prepare(ctx context.Context, tx pgx.Tx) error {
	if !p.hasPooler() {
		return nil
	}
	name := "pgidem_probe_" + NewID() // another probe's may be left in the backend
	_, err := p.own.PgConn().Prepare(ctx, name, "SELECT 1", nil)
	if err == nil {
		p.keepsName, err = dbsqlc.New().ProbePrepared(ctx, p.through(tx), name)
	}
	if err == nil {
		err = p.own.PgConn().Deallocate(ctx, name)
	}
	if err != nil {
		return unanswered(err, "the probe's question about prepared statements")
	}
	return nil
}

// askPooler refuses the query modes that do not work through the pooler.
func (p *prober) askPooler(ctx context.Context) error {
	if !p.hasPooler() {
		p.report.PreparedStatements = true
		return nil
	}
	moves, err := p.moves(ctx)
	if err != nil {
		return unanswered(err, "the probe's question about the pooler")
	}
	p.report.Pooler = poolerSession
	if moves {
		p.report.Pooler = poolerTransaction
	}
	p.report.PreparedStatements = !moves || !p.keepsName
	switch {
	case p.mode == pgx.QueryExecModeCacheStatement && !p.report.PreparedStatements:
		return &Error{Kind: ErrPooler, Reason: "it does not keep track of prepared statements, which pgx's mode cache_statement needs; " +
			"set default_query_exec_mode=cache_describe in the connection string, or max_prepared_statements in PgBouncer 1.21 or later"}
	case p.mode == pgx.QueryExecModeDescribeExec && moves:
		return &Error{Kind: ErrPooler, Reason: "it may change the server connection between the two messages of pgx's mode describe_exec; " +
			"set default_query_exec_mode=cache_describe in the connection string"}
	}
	return nil
}

// moves reports whether transactions of one connection meet several backends. In session mode each of the probe's two
// connections keeps a backend of its own, so anything else is proof. An idle pooler gives it with the questions about locks:
// one that hands out the backend that was freed last gives both connections the same one, and one that takes them in turn
// moves the connection that asks twice. A busy one answers by chance, so it is asked again: with two backends, of
// which each question meets either, no proof in all rounds is one case in 2^20.
func (p *prober) moves(ctx context.Context) (bool, error) {
	for range poolerRounds {
		for _, ask := range []func(context.Context) (bool, error){p.askPool, p.askPool, p.askOwn} {
			if p.moved() {
				return true, nil
			}
			if _, err := ask(ctx); err != nil {
				return false, err
			}
		}
	}
	return p.moved(), nil
}

func (p *prober) moved() bool {
	other := func(than int32) func(int32) bool { return func(backend int32) bool { return backend != than } }
	return slices.ContainsFunc(p.backends, other(p.backends[0])) ||
		slices.ContainsFunc(p.ownBackends, other(p.ownBackends[0])) ||
		slices.Contains(p.ownBackends, p.backends[0])
}

// modeName spells a mode as pgx does in a connection string.
func modeName(mode pgx.QueryExecMode) string { return strings.ReplaceAll(mode.String(), " ", "_") }
