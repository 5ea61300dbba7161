package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem"
)

const (
	// settledKeys are finished before anything is measured: for replays, and so that no index is empty when plans are made.
	// There is at least one for each of mostCallers.
	settledKeys = 512
	// fillers make them.
	fillers = 8
	// otherConnections is what the benchmark opens beside one connection for each caller.
	otherConnections = 8
)

// Why a server is refused.
var (
	errUnsafe         = errors.New("its commits cost less than they should, so a ratio to them says nothing; set it to on")
	errTooManyCallers = errors.New("ask for fewer callers, or raise it")
)

// site is the database that all labs work in.
type site struct {
	config  *pgxpool.Config
	settled []string // IDs of finished keys, which are those of their charges too
}

// newSite makes the application's tables and the finished keys.
func newSite(ctx context.Context, url string, callers []int) (_ *site, err error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	// A pool pings connections that were idle for a second, which would be counted against whoever comes first
	// after another one's turn.
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	s := &site{config: config}
	l, err := s.lab(ctx, fillers, nil)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.close(ctx)) }()
	if err := checkServer(ctx, l.pool, callers); err != nil {
		return nil, err
	}
	if _, err := l.pool.Exec(ctx, workSchema); err != nil {
		return nil, fmt.Errorf("create the tables of the work: %w", err)
	}
	if err := s.fill(ctx, l); err != nil {
		return nil, fmt.Errorf("finish %d keys: %w", settledKeys, err)
	}
	if _, err := l.pool.Exec(ctx, "VACUUM (ANALYZE)"); err != nil {
		return nil, fmt.Errorf("vacuum the database: %w", err)
	}
	return s, nil
}

// checkServer refuses a server on which the numbers would mean nothing, or that has too few connections.
func checkServer(ctx context.Context, pool *pgxpool.Pool, callers []int) error {
	for name, safe := range map[string][]string{
		"fsync": {"on"}, "full_page_writes": {"on"}, "synchronous_commit": {"on", "remote_apply"},
	} {
		value, err := setting(ctx, pool, name)
		if err != nil {
			return err
		}
		if !slices.Contains(safe, value) {
			return fmt.Errorf("the server has %s = %s: %w", name, value, errUnsafe)
		}
	}
	value, err := setting(ctx, pool, "max_connections")
	if err != nil {
		return err
	}
	allowed, err := strconv.Atoi(value)
	if err != nil {
		return fmt.Errorf("the server's max_connections is %q", value)
	}
	needed := otherConnections
	for _, n := range callers {
		needed += n
	}
	if needed > allowed {
		return fmt.Errorf("-concurrency needs %d connections, the server has max_connections = %d: %w", needed, allowed, errTooManyCallers)
	}
	return nil
}

func setting(ctx context.Context, pool *pgxpool.Pool, name string) (string, error) {
	var value string
	if err := pool.QueryRow(ctx, "SELECT current_setting($1)", name).Scan(&value); err != nil {
		return "", fmt.Errorf("ask for the server's %s: %w", name, err)
	}
	return value, nil
}

func (s *site) fill(ctx context.Context, l *lab) error {
	s.settled = make([]string, settledKeys)
	for i := range s.settled {
		s.settled[i] = pgidem.NewID()
	}
	errs := make([]error, fillers)
	var wg sync.WaitGroup
	for worker := range fillers {
		wg.Go(func() {
			for i := worker; i < settledKeys && errs[worker] == nil; i += fillers {
				id := s.settled[i]
				_, errs[worker] = pgidem.DoTx(ctx, l.client, pgidem.Key{Scope: scope, ID: id},
					func(_ context.Context, tx pgidem.Tx) (charge, error) {
						c := newCharge()
						c.ID = id
						return c, tx.Last(insertCharge, c.ID, c.Account, c.Amount)
					})
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
