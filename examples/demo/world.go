package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/devpg"
)

// What quickstart's schema.sql gives the account that the demo charges.
const (
	account            = "acct_42"
	openingCents int64 = 1000_00
)

// world is what a run works with.
type world struct {
	report   report
	postgres *devpg.Server
	conn     *pgx.Conn // the demo's own, which also closes the gate
	url      string
	dir      string
	binary   string
	a, b     *server
	// spare, once a and b are there, makes the end of the run's context no longer kill them.
	spare func() bool
	calls sync.WaitGroup

	// What the database must say in the end.
	wantCharges, wantFailed int
	wantCents               int64
	// The receipts of payments that later steps ask for again.
	first, taken payment
}

// open starts PostgreSQL, builds quickstart and starts it twice.
func (w *world) open(ctx context.Context) error {
	var err error
	if w.postgres, err = devpg.Start(ctx); err != nil {
		return err
	}
	w.report.Postgres = w.postgres.Describe()
	database, err := w.postgres.NewDatabase(ctx)
	if err != nil {
		return err
	}
	w.url = database.URL()
	if w.conn, err = pgx.Connect(ctx, w.url); err != nil {
		return err
	}
	if w.dir, err = os.MkdirTemp("", "pgidem-demo-"); err != nil {
		return err
	}
	w.binary = filepath.Join(w.dir, "quickstart.exe") // Windows insists on the ending, the others do not mind
	build := exec.CommandContext(ctx, "go", "build", "-o", w.binary, "github.com/pgidem/pgidem/examples/quickstart")
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build examples/quickstart: %w\n%s", err, output)
	}
	serversCtx, kill := context.WithCancel(context.WithoutCancel(ctx))
	w.spare = context.AfterFunc(ctx, kill)
	if w.a, err = startServer(serversCtx, "A", w.binary, w.url); err != nil {
		return err
	}
	if w.b, err = startServer(serversCtx, "B", w.binary, w.url); err != nil {
		return err
	}
	return installGate(ctx, w.conn)
}

// close stops what was started, whatever came before.
func (w *world) close() error {
	ctx := context.Background() // the run's context may be what ended it
	if w.spare != nil {
		w.spare() // they are stopped now: Ctrl-C meanwhile is no reason to fail
	}
	var errs []error
	if w.conn != nil {
		errs = append(errs, w.conn.Close(ctx)) // first: it opens the gate
	}
	errs = append(errs, w.b.stop(), w.a.stop())
	w.calls.Wait()
	if w.dir != "" {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	if w.postgres != nil {
		errs = append(errs, w.postgres.Close())
	}
	return errors.Join(errs...)
}

// count asks the database what happened, and compares it with what must have happened.
func (w *world) count(ctx context.Context) error {
	r := &w.report
	var illegal int
	var charged int64
	err := w.conn.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM charges WHERE account = $1),
		(SELECT coalesce(sum(amount_cents), 0)::bigint FROM charges WHERE account = $1),
		(SELECT balance_cents FROM accounts WHERE id = $1),
		(SELECT count(*) FROM idempotency_keys WHERE state = 'succeeded'),
		(SELECT count(*) FROM idempotency_keys WHERE state = 'failed'),
		(SELECT count(*) FROM idempotency_keys),
		(SELECT count(*) FROM idempotency_illegal_rows)`, account).
		Scan(&r.Charges, &charged, &r.BalanceCents, &r.Succeeded, &r.Failed, &r.Operations, &illegal)
	if err != nil {
		return fmt.Errorf("count in the database: %w", err)
	}
	return errors.Join(
		same("charges", r.Charges, w.wantCharges),
		same("cents charged", charged, w.wantCents),
		same("the balance in cents", r.BalanceCents, openingCents-w.wantCents),
		same("keys that succeeded", r.Succeeded, w.wantCharges),
		same("keys that failed", r.Failed, w.wantFailed),
		same("keys", r.Operations, w.wantCharges+w.wantFailed),
		same("illegal rows", illegal, 0),
	)
}

func same[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: %v in the database, %v are right", what, got, want)
	}
	return nil
}
