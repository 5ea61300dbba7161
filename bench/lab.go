package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem"
)

// lab is where a number of callers work at the same time: a pool with a connection for each, and a client on it.
type lab struct {
	callers int
	pool    *pgxpool.Pool
	client  *pgidem.Client
	settled []string
}

// lab opens one; edit, which may be nil, changes the pool's configuration before.
func (s *site) lab(ctx context.Context, callers int, edit func(*pgxpool.Config)) (*lab, error) {
	config := s.config.Copy()
	config.MaxConns = int32(callers) //nolint:gosec // At most mostCallers.
	if edit != nil {
		edit(config)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open a pool of %d connections: %w", callers, err)
	}
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		pool.Close()
		return nil, err
	}
	return &lab{callers: callers, pool: pool, client: client, settled: s.settled}, nil
}

// close waits for what still runs, whatever became of ctx.
func (l *lab) close(ctx context.Context) error {
	err := l.client.Close(context.WithoutCancel(ctx))
	l.pool.Close()
	return err
}

// settledID is the ID of a finished key. Each worker goes round keys of its own: two callers of one key would meet in
// memory and save each other the database.
func (l *lab) settledID(turn, worker int) string {
	own := len(l.settled) / l.callers
	return l.settled[worker*own+turn%own]
}
