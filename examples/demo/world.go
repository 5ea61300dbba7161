package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/devpg"
)

// world is what a run works with: a PostgreSQL, executables of the examples, and the two parts of the demo.
type world struct {
	report   report
	postgres *devpg.Server
	dir      string // of the executables
	shop     shop
	fleet    fleet
}

// database is one part's, and the demo's own connection to it.
type database struct {
	url  string
	conn *pgx.Conn
}

// open starts everything.
func (w *world) open(ctx context.Context) error {
	var err error
	if w.postgres, err = devpg.Start(ctx); err != nil {
		return err
	}
	w.report.Postgres = w.postgres.Describe()
	if w.dir, err = os.MkdirTemp("", "pgidem-demo-"); err != nil {
		return err
	}
	if err := w.shop.open(ctx, w); err != nil {
		return err
	}
	return w.fleet.open(ctx, w)
}

// build makes an executable of one of the examples.
func (w *world) build(ctx context.Context, example string) (binary string, err error) {
	binary = filepath.Join(w.dir, example+".exe") // Windows insists on the ending, the others do not mind
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/pgidem/pgidem/examples/"+example)
	if output, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build examples/%s: %w\n%s", example, err, output)
	}
	return binary, nil
}

func (w *world) newDatabase(ctx context.Context) (*database, error) {
	created, err := w.postgres.NewDatabase(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.Connect(ctx, created.URL())
	if err != nil {
		return nil, err
	}
	return &database{created.URL(), conn}, nil
}

// servers are all that were started and not replaced, in the order in which they are to be stopped.
func (w *world) servers() []*server {
	var started []*server
	for _, s := range []*server{w.shop.a, w.shop.b, w.fleet.a, w.fleet.b, w.fleet.provider} {
		if s != nil {
			started = append(started, s)
		}
	}
	return started
}

// spare makes the end of the run's context no longer kill the servers. It is false when that has happened.
func (w *world) spare() bool {
	all := true
	for _, s := range w.servers() {
		all = s.spare() && all
	}
	return all
}

// close stops what was started, whatever came before.
func (w *world) close() error {
	ctx := context.Background() // the run's context may be what ended it
	w.spare()                   // they are stopped now: Ctrl-C meanwhile is no reason to fail
	var errs []error
	for _, d := range []*database{w.shop.database, w.fleet.database} {
		if d != nil {
			errs = append(errs, d.conn.Close(ctx)) // first: it opens the gate
		}
	}
	for _, s := range w.servers() {
		errs = append(errs, s.stop())
	}
	errs = append(errs, w.shop.a.quiet(), w.shop.b.quiet())
	w.shop.calls.Wait()
	w.fleet.calls.Wait()
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	if w.postgres != nil {
		errs = append(errs, w.postgres.Close())
	}
	return errors.Join(errs...)
}
