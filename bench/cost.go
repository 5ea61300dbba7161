package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/pgidem/pgidem/internal/faultconn"
)

const (
	// warmUps are enough for every statement to be prepared and to have its generic plan.
	warmUps = 10
	// countedOps is how often an operation runs for one count.
	countedOps = 20
	// walTries is how many counts of WAL the smallest is taken of: the server's own records come in between now and then.
	walTries = 3
)

// cost is what one operation takes, however long it may take it.
type cost struct {
	roundTrips, commits, allocs, walBytes float64
}

// costs counts every variant, alone on one connection. The wire is watched by one pool, and the client's memory and the
// server's WAL are read beside another, so that watching costs neither.
func (s *site) costs(ctx context.Context, groups []group) (_ map[string]cost, err error) {
	wire := faultconn.New()
	defer wire.Close()
	watched, err := s.lab(ctx, 1, wire.Configure)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, watched.close(ctx)) }()
	plain, err := s.lab(ctx, 1, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, plain.close(ctx)) }()

	onWire, onServer := watched.bench(groups), plain.bench(groups)
	all := map[string]cost{}
	for _, g := range groups {
		for _, v := range append([]variant{g.baseline}, g.others...) {
			var c cost
			if err := onWire.countWire(ctx, v, wire, &c); err != nil {
				return nil, err
			}
			if err := onServer.countMemory(ctx, v, &c); err != nil {
				return nil, err
			}
			if err := onServer.countWAL(ctx, v, &c); err != nil {
				return nil, err
			}
			all[v.name] = c
		}
	}
	return all, nil
}

func (b *bench) countWire(ctx context.Context, v variant, wire *faultconn.Faults, c *cost) error {
	if err := b.repeat(ctx, v, warmUps); err != nil {
		return err
	}
	wire.Reset()
	if err := b.repeat(ctx, v, countedOps); err != nil {
		return err
	}
	counts := wire.Counts()
	c.roundTrips = float64(counts.RoundTrips) / countedOps
	c.commits = float64(counts.Commits) / countedOps
	return nil
}

func (b *bench) countMemory(ctx context.Context, v variant, c *cost) error {
	if err := b.repeat(ctx, v, warmUps); err != nil {
		return err
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := b.repeat(ctx, v, countedOps)
	runtime.ReadMemStats(&after)
	c.allocs = float64(after.Mallocs-before.Mallocs) / countedOps
	return err
}

func (b *bench) countWAL(ctx context.Context, v variant, c *cost) error {
	for try := range walTries {
		before, err := b.walPosition(ctx)
		if err != nil {
			return err
		}
		if err := b.repeat(ctx, v, countedOps); err != nil {
			return err
		}
		after, err := b.walPosition(ctx)
		if err != nil {
			return err
		}
		if bytes := float64(after-before) / countedOps; try == 0 || bytes < c.walBytes {
			c.walBytes = bytes
		}
	}
	return nil
}

func (b *bench) walPosition(ctx context.Context) (int64, error) {
	var at int64
	if err := b.pool.QueryRow(ctx, "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint").Scan(&at); err != nil {
		return 0, fmt.Errorf("ask for the server's WAL position: %w", err)
	}
	return at, nil
}

func (b *bench) repeat(ctx context.Context, v variant, times int) error {
	for range times {
		if err := b.ops[v.name](ctx, 0); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return nil
}
