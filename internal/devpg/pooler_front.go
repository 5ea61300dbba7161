package devpg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Pooler is a PgBouncer in front of a [Server]; its pool mode is transaction, unless settings say otherwise.
type Pooler struct{ url, where string }

// Pooler is the one that PGIDEM_POOLER asks for, or nil.
func (s *Server) Pooler() *Pooler {
	if s.instance.Pooler == "" {
		return nil
	}
	return &Pooler{s.instance.Pooler, s.PoolerWhere}
}

// Pooler is the one in front of the database's server, or nil where PGIDEM_POOLER is not set.
func (d *Database) Pooler() *Pooler { return d.server.Pooler() }

// NewPooler starts a pooler of t's own with additional lines of pgbouncer.ini, in front of the server of [New]. It is stopped
// when t ends: take t's databases before. Where PGIDEM_POOLER is not set, a pooler that this machine has is taken, and
// t is skipped if there is none.
func NewPooler(t testing.TB, settings ...string) *Pooler {
	t.Helper()
	server := sharedServer(t)
	kind := os.Getenv(envPooler)
	if kind == "" {
		kind = availablePooler(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), serverBound)
	defer cancel()
	front, err := start(ctx, append(os.Environ(),
		envURL+"="+server.URL(), envForce+"="+nameURL, envHost+"="+server.Where, envKeep+"=",
		envPooler+"="+kind, envPoolerURL+"=", envPoolerSettings+"="+strings.Join(settings, ";")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := front.Close(); err != nil {
			t.Error(err)
		}
	})
	return front.Pooler()
}

// availablePooler prefers the program on this machine, which starts faster.
func availablePooler(t testing.TB) string {
	t.Helper()
	_, missing := findPooler()
	if missing == nil {
		return nameLocal
	}
	if exec.Command("docker", "image", "inspect", poolerImage()).Run() == nil {
		return nameDocker
	}
	t.Skipf("this test needs PgBouncer; make poolers insists on it: %v", missing)
	return ""
}

// String names the pooler for the reader of a test's log.
func (p *Pooler) String() string { return "PgBouncer " + p.where }

// URL connects to the database through the pooler.
func (p *Pooler) URL(d *Database) string { return withDatabase(p.url, d.name) }

// Pool is [Database.Pool] through the pooler.
func (p *Pooler) Pool(t testing.TB, d *Database, edit ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	return newPool(t, p.URL(d), edit)
}

// Setting returns the value of one of the pooler's settings, "" where its version does not know it.
func (p *Pooler) Setting(ctx context.Context, name string) (string, error) {
	rows, err := p.command(ctx, "SHOW CONFIG")
	if err != nil {
		return "", err
	}
	for _, row := range rows {
		if row["key"] == name {
			return row["value"], nil
		}
	}
	return "", nil
}

// checkPooler reports clients that are still connected to the database through the run's pooler, and has the pooler close
// its own connections, which would keep the database from being dropped.
func checkPooler(ctx context.Context, d *Database) error {
	p := d.Pooler()
	if p == nil {
		return nil
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(leakBound)
	for {
		left, err := p.of(ctx, d, "SHOW CLIENTS")
		if err != nil {
			return err
		}
		if len(left) == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			return fmt.Errorf("devpg: the test left connections to its database open in the pooler: %v", left)
		}
	}
	used, err := p.of(ctx, d, "SHOW SERVERS")
	if err == nil && len(used) > 0 {
		_, err = p.command(ctx, "KILL "+quote(d.name))
	}
	return err
}

// of returns the rows that are about the database.
func (p *Pooler) of(ctx context.Context, d *Database, show string) ([]map[string]string, error) {
	rows, err := p.command(ctx, show)
	return slices.DeleteFunc(rows, func(row map[string]string) bool { return row["database"] != d.name }), err
}

// command runs one on the pooler's console, which knows the simple protocol only.
func (p *Pooler) command(ctx context.Context, command string) (rows []map[string]string, err error) {
	conn, err := pgconn.Connect(ctx, withDatabase(p.url, "pgbouncer"))
	if err != nil {
		return nil, fmt.Errorf("devpg: the pooler's console: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	results, err := conn.Exec(ctx, command).ReadAll()
	if err != nil {
		return nil, fmt.Errorf("devpg: the pooler's console, %s: %w", command, err)
	}
	for _, result := range results {
		for _, values := range result.Rows {
			row := make(map[string]string, len(values))
			for i, value := range values {
				row[result.FieldDescriptions[i].Name] = string(value)
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}
