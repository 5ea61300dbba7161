package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/migrations"
)

// adminConnections are for creating and dropping databases; more at once are not faster.
const adminConnections = 4

// Server is a running PostgreSQL. Its methods may be called concurrently.
type Server struct {
	instance
	keeper *keeper
	admin  *pgxpool.Pool
	drops  *dropper
	// lasting databases of failed tests are worth keeping: the server stays.
	lasting bool
	// keep, set when a failed test's database is kept, leaves the server running.
	keep atomic.Bool
	last atomic.Int64

	template struct {
		sync.Mutex
		name string // empty until it is there
	}
}

// Start finds or starts a server, as the package comment says; for programs such as a demo or a benchmark. Stop it with
// [Server.Close]. When ctx ends while it starts, what was begun is removed. Errors say which ways were tried and
// why each failed.
func Start(ctx context.Context) (*Server, error) { return start(ctx, os.Environ()) }

// start has the environment as an argument, for tests that run in parallel.
func start(ctx context.Context, environ []string) (_ *Server, err error) {
	keeper, ready, err := startKeeper(ctx, environ)
	if err != nil {
		return nil, fmt.Errorf("devpg: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("devpg: %w", err), keeper.close(false))
		}
	}()
	config, err := pgxpool.ParseConfig(ready.URL)
	if err != nil {
		return nil, err
	}
	config.MaxConns = adminConnections
	admin, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), config)
	if err != nil {
		return nil, err
	}
	return &Server{
		instance: *ready, keeper: keeper, admin: admin, drops: startDropper(admin, dropBatch),
		// A server that devpg started goes away, with all databases, unless it is asked to stay.
		lasting: ready.Way == nameURL && value(environ, envHost) == "" || value(environ, envKeep) == "1",
	}, nil
}

// value looks a variable up as exec.Cmd would: the last one counts.
func value(environ []string, name string) string {
	for _, entry := range slices.Backward(environ) {
		if v, found := strings.CutPrefix(entry, name+"="); found {
			return v
		}
	}
	return ""
}

// Close removes what Start started, with all databases of [Server.NewDatabase], and returns when it is gone.
func (s *Server) Close() error {
	s.drops.close()
	s.admin.Close()
	keep := s.keep.Load() && s.Stop != ""
	if keep {
		fmt.Fprintf(os.Stderr, "devpg: the server is left running (%s=1): %s\nstop it with: %s\n", envKeep, s.instance.URL, s.Stop)
	}
	if err := s.keeper.close(keep); err != nil {
		return fmt.Errorf("devpg: %w", err)
	}
	return nil
}

// URL is that of the maintenance database: as superuser on a server that devpg started, else PGIDEM_DATABASE_URL.
func (s *Server) URL() string { return s.instance.URL }

// Describe names the server for the reader of a demo or a benchmark: "PostgreSQL 17.5 in Docker (postgres:17)".
func (s *Server) Describe() string { return fmt.Sprintf("PostgreSQL %s %s", s.Version, s.Where) }

// NewDatabase creates a database with pgidem's schema. It is dropped by [Database.Drop], at the latest by Close.
func (s *Server) NewDatabase(ctx context.Context) (*Database, error) {
	template, err := s.migrated(ctx)
	if err != nil {
		return nil, err
	}
	return s.create(ctx, template)
}

// cloneStrategy is the faster one for tests that run at once, and never the one that stalls: on two busy cores a clone among
// others took 0.3 s, with WAL_LOG 0.8 to 1.4 s, because that writes each database twice. Alone and on an idle machine
// WAL_LOG is ahead (0.05 s to 0.12 s). BenchmarkNewDatabase compares them.
const cloneStrategy = "FILE_COPY"

// create clones a database.
func (s *Server) create(ctx context.Context, template string) (*Database, error) {
	return s.clone(ctx, template, cloneStrategy)
}

func (s *Server) clone(ctx context.Context, template, strategy string) (*Database, error) {
	name := fmt.Sprintf("%s%s_%d", prefix, s.Run, s.last.Add(1))
	_, err := s.admin.Exec(ctx, "CREATE DATABASE "+quote(name)+" TEMPLATE "+quote(template)+" STRATEGY "+strategy)
	if err != nil {
		return nil, fmt.Errorf("devpg: create database %s: %w", name, err)
	}
	return &Database{server: s, name: name}, nil
}

// migrated returns the name of the template, which the first caller creates.
func (s *Server) migrated(ctx context.Context) (name string, err error) {
	s.template.Lock()
	defer s.template.Unlock()
	if s.template.name != "" {
		return s.template.name, nil
	}
	db, err := s.create(ctx, "template0")
	if err != nil {
		return "", err
	}
	if err := db.migrate(ctx); err != nil {
		return "", errors.Join(fmt.Errorf("devpg: migrate the template: %w", err), db.Drop(context.WithoutCancel(ctx)))
	}
	// A database cannot be cloned while somebody is connected to it, so nobody may.
	if _, err := s.admin.Exec(ctx, "ALTER DATABASE "+quote(db.name)+" ALLOW_CONNECTIONS false"); err != nil {
		return "", errors.Join(fmt.Errorf("devpg: close the template: %w", err), db.Drop(context.WithoutCancel(ctx)))
	}
	s.template.name = db.name
	return db.name, nil
}

func (d *Database) migrate(ctx context.Context) error {
	pool, err := pgxpool.New(ctx, d.URL())
	if err != nil {
		return err
	}
	defer pool.Close()
	return migrations.Up(ctx, pool)
}
