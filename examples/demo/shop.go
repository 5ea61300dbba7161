package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// What quickstart's schema.sql gives the account that the demo charges.
const (
	account            = "acct_42"
	openingCents int64 = 1000_00
)

// shop is the first part: two servers of examples/quickstart, A and B, on one database.
type shop struct {
	*database
	report  *paymentsReport
	program program
	gate    gate
	a, b    *server
	calls   sync.WaitGroup

	// What the database must say in the end.
	wantCharges, wantFailed int
	wantCents               int64
	// The receipts of payments that later steps ask for again.
	first, taken payment
}

func (s *shop) open(ctx context.Context, w *world) error {
	s.report = &w.report.Payments
	binary, err := w.build(ctx, "quickstart")
	if err != nil {
		return err
	}
	if s.database, err = w.newDatabase(ctx); err != nil {
		return err
	}
	s.program = program{binary: binary, env: []string{"DATABASE_URL=" + s.url}}
	if s.a, err = s.program.start(ctx, "A"); err != nil {
		return err
	}
	if s.b, err = s.program.start(ctx, "B"); err != nil {
		return err
	}
	s.gate, err = installGate(ctx, s.conn, "charges")
	return err
}

// play runs the steps, one after the other.
func (s *shop) play(ctx context.Context, to printer) error {
	for i, step := range steps {
		to.step(i+1, step.title)
		began, before := time.Now(), s.report.Requests
		outcome, err := step.run(ctx, s)
		if err != nil {
			return fmt.Errorf("step %d: %w", i+1, err)
		}
		done := stepReport{Title: step.title, Outcome: outcome, Requests: s.report.Requests - before, Elapsed: since(began)}
		s.report.Steps = append(s.report.Steps, done)
		to.outcome(done)
	}
	if err := s.count(ctx); err != nil {
		return err
	}
	to.payments(*s.report)
	return nil
}

// count asks the database what happened, and compares it with what must have happened.
func (s *shop) count(ctx context.Context) error {
	r := s.report
	var illegal int
	var charged int64
	err := s.conn.QueryRow(ctx, `SELECT
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
		same("charges", r.Charges, s.wantCharges),
		same("cents charged", charged, s.wantCents),
		same("the balance in cents", r.BalanceCents, openingCents-s.wantCents),
		same("keys that succeeded", r.Succeeded, s.wantCharges),
		same("keys that failed", r.Failed, s.wantFailed),
		same("keys", r.Operations, s.wantCharges+s.wantFailed),
		same("illegal rows", illegal, 0),
	)
}

func same[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: %v in the database, %v are right", what, got, want)
	}
	return nil
}
