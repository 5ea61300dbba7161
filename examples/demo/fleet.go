package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// grace is how long a server that gets SIGTERM lets a ride go on: too short for a payment that is slow.
const grace = 100 * time.Millisecond

// fleet is the second part: two servers of examples/rides, A and B, on one database, and their payment provider.
type fleet struct {
	*database
	report         *ridesReport
	program        program // of A and B
	gate           gate
	provider, a, b *server
	calls          sync.WaitGroup
}

func (f *fleet) open(ctx context.Context, w *world) error {
	f.report = &w.report.Rides
	binary, err := w.build(ctx, "rides")
	if err != nil {
		return err
	}
	if f.database, err = w.newDatabase(ctx); err != nil {
		return err
	}
	if f.provider, err = (program{binary: binary, args: []string{"provider"}}).start(ctx, "provider"); err != nil {
		return err
	}
	f.program = program{binary: binary, env: []string{
		"DATABASE_URL=" + f.url, "PROVIDER_URL=" + f.provider.url, fmt.Sprintf("STOP_BOUND=%v", grace),
	}}
	if f.a, err = f.program.start(ctx, "A"); err != nil {
		return err
	}
	if f.b, err = f.program.start(ctx, "B"); err != nil {
		return err
	}
	if f.gate, err = installGate(ctx, f.conn, "ledger"); err != nil {
		return err
	}
	// When PostgreSQL has just been started, nobody is taken for dead for two seconds: owners may be about to come back.
	return await(ctx, "PostgreSQL did not come of age", func(ctx context.Context) (yes bool, err error) {
		err = f.conn.QueryRow(ctx, "SELECT clock_timestamp() - pg_postmaster_start_time() > '2 s'").Scan(&yes)
		return yes, err
	})
}

// play interrupts ride after ride, and counts what came of it.
func (f *fleet) play(ctx context.Context, to printer) error {
	to.fleet()
	for _, i := range interruptions {
		for range i.runs {
			r := rideRun{Number: len(f.report.Runs) + 1, Interruption: i.title}
			if err := f.run(ctx, i, &r); err != nil {
				return fmt.Errorf("run %d, %s: %w", r.Number, i.title, err)
			}
			f.report.Runs = append(f.report.Runs, r)
			to.ran(r)
		}
	}
	err := f.count(ctx)
	to.rides(*f.report)
	return err
}

// count looks at everything once more when all is over, and says what is missing or doubled.
func (f *fleet) count(ctx context.Context) error {
	r := f.report
	for _, run := range r.Runs {
		charges, lines, err := f.effects(ctx, run.customer)
		if err != nil {
			return err
		}
		r.ChargesMissing += max(0, 1-charges)
		r.ChargesDoubled += max(0, charges-1)
		r.LedgerMissing += max(0, 1-lines)
		r.LedgerDoubled += max(0, lines-1)
		r.Charges += charges
		if run.resumed {
			r.Resumed++
		}
		if run.killed {
			r.TakeoverMaxMS = max(r.TakeoverMaxMS, *run.ClaimMS)
		}
	}
	err := f.conn.QueryRow(ctx, `SELECT
		(SELECT count(*) FROM rides WHERE state = 'paid'),
		(SELECT count(*) FROM ledger),
		(SELECT count(*) FROM staged_jobs),
		(SELECT count(*) FROM idempotency_keys WHERE state = 'succeeded'),
		(SELECT count(*) FROM idempotency_illegal_rows)`).Scan(&r.Rides, &r.LedgerRows, &r.StagedJobs, &r.Succeeded, &r.IllegalRows)
	if err != nil {
		return fmt.Errorf("count in the database: %w", err)
	}
	return r.verdict()
}

// verdict says what is wrong with what was counted, nil when nothing is.
func (r ridesReport) verdict() error {
	n := len(r.Runs)
	var wrong error
	if r.Resumed != n || r.ChargesMissing+r.ChargesDoubled+r.LedgerMissing+r.LedgerDoubled != 0 {
		wrong = errors.New(r.String())
	}
	return errors.Join(
		wrong,
		same("rides", r.Rides, n),
		same("lines in the ledger", r.LedgerRows, n),
		same("staged jobs", r.StagedJobs, n),
		same("keys that succeeded", r.Succeeded, n),
		same("illegal rows", r.IllegalRows, 0),
	)
}

// effects counts a customer's charges at the provider and lines in the ledger.
func (f *fleet) effects(ctx context.Context, customer string) (charges, lines int, err error) {
	if charges, err = f.charges(ctx, customer); err != nil {
		return 0, 0, err
	}
	err = f.conn.QueryRow(ctx, `SELECT count(*) FROM ledger JOIN rides ON rides.id = ride_id WHERE customer = $1`, customer).Scan(&lines)
	if err != nil {
		return 0, 0, fmt.Errorf("count in the ledger: %w", err)
	}
	return charges, lines, nil
}
