package pgidem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// parked leaves the key's operation parked: its second step was called, and nobody knows what came of it. The operation is what a
// test runs afterwards.
func (b *bundle) parked() *errand {
	b.Helper()
	e := b.errand()
	e.at["charge"] = func(context.Context) error { return Unknown(errors.New("no answer")) }
	_, err := e.do()
	b.wantError(err, ErrParked)
	delete(e.at, "charge")
	return e
}

// about is a decision about the key's operation as it is now.
func (b *bundle) about() Decision {
	b.Helper()
	record, err := Lookup[string](b.Context(), b.client, b.key)
	b.must(record, err)
	return Decision{Claim: record.Claim, Reason: "the provider's list was read", Actor: "ann"}
}

// audited is what is written down about the key, as "action claim attempt step actor reason".
func (b *bundle) audited() []string {
	b.Helper()
	rows, err := b.observe().Query(b.Context(), `
		SELECT concat_ws(' ', action, claim, attempt, coalesce(step, '-'), actor, reason) FROM idempotency_audit
		WHERE scope = $1 AND id = $2 AND role = session_user AND at <= clock_timestamp() ORDER BY n`, b.key.Scope, b.key.ID)
	b.must(rows, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	b.must(lines, err)
	return lines
}

func (b *bundle) wantAudit(want ...string) {
	b.Helper()
	if got := b.audited(); !slices.Equal(got, want) {
		b.Errorf("written down is %q, want %q", got, want)
	}
}

// Each decision, what the next call does, and what is written down.
func TestDecisions(t *testing.T) {
	b := setup(t)
	ctx := b.Context()
	audit := func(b *bundle, d Decision, action, step string) {
		b.Helper()
		b.wantAudit(fmt.Sprintf("%s %s 1 %s ann the provider's list was read", action, d.Claim, step))
	}
	b.each("Settle", func(b *bundle) {
		e, d := b.parked(), b.about()
		b.must(nil, Settle(ctx, b.client, b.key, d, "settled by hand"))
		b.wantState(stateSucceeded)
		got, err := e.do()
		b.wantResult(got, err, "settled by hand", true)
		audit(b, d, "settle", "-")
	})
	b.each("SettleFailed", func(b *bundle) {
		e, d := b.parked(), b.about()
		e.undos = true
		b.must(nil, b.client.SettleFailed(ctx, b.key, d, errDeclined))
		_, err := e.do()
		b.wantFailure(err, errDeclined, false)
		if len(e.undone) != 0 {
			b.Errorf("taken back: %q", e.undone)
		}
		audit(b, d, "settle", "-")
	})
	b.each("SettleStep", func(b *bundle) {
		e, d := b.parked(), b.about()
		b.must(nil, SettleStep(ctx, b.client, b.key, d, "charge", "charged by hand"))
		b.wantState(stateReleased)
		got, err := e.do()
		b.wantResult(got, err, "created, charged by hand, receipt", false)
		if e.ran["charge"] != 1 || got.ResumedAfter != "charge" || got.Attempt != 2 {
			b.Errorf("%d calls, got %+v", e.ran["charge"], got)
		}
		audit(b, d, "settle_step", "charge")
	})
	b.each("Release", func(b *bundle) {
		e, d := b.parked(), b.about()
		b.must(nil, b.client.Release(ctx, b.key, d))
		b.wantState(stateReleased)
		got, err := e.do()
		b.wantResult(got, err, errandResult, false)
		if e.ran["charge"] != 2 || e.ran["create"] != 1 || e.keys[0] != e.keys[1] {
			b.Errorf("ran %v with the keys %q", e.ran, e.keys)
		}
		audit(b, d, "release", "-")
	})
	b.each("Resume", func(b *bundle) {
		c := b.charging(StepOpts[string]{Timeout: time.Hour})
		c.call = doubts["Unknown"]
		_, _ = c.do()
		b.letDeadlinePass()
		c.answer = func(context.Context) (Reconciled[string], error) { return Reconciled[string]{}, nil }
		_, err := c.do()
		b.wantError(err, ErrParked)
		d := b.about()
		b.must(nil, b.client.Resume(ctx, b.key, d))
		c.answer = func(context.Context) (Reconciled[string], error) {
			return Reconciled[string]{Outcome: ReconcileDone, Value: "charged after all"}, nil
		}
		got, err := c.do()
		b.wantResult(got, err, "charged after all", false)
		c.want(1, 2)
		b.wantAudit(fmt.Sprintf("resume %s 2 - ann the provider's list was read", d.Claim))
	})
}

// An operation whose attempts are used up gets them all anew.
func TestDecisionForgivesAttempts(t *testing.T) {
	b := setup(t)
	for name, decide := range map[string]func(b *bundle) error{
		"Resume":  func(b *bundle) error { return b.client.Resume(b.Context(), b.key, b.about()) },
		"Release": func(b *bundle) error { return b.client.Release(b.Context(), b.key, b.about()) },
	} {
		b.each(name, func(b *bundle) {
			e := b.errand()
			down := errors.New("down")
			e.at["charge"] = func(context.Context) error { return down }
			limited := &DoOpts{MaxAttempts: 2}
			for range 2 {
				for range 2 {
					if _, err := e.do(limited); !errors.Is(err, down) {
						b.Fatalf("got %v, want the step's error", err)
					}
				}
				_, err := e.do(limited)
				b.wantError(err, ErrParked)
				if err := decide(b); err != nil {
					b.Fatal(err)
				}
			}
			delete(e.at, "charge")
			got, err := e.do(limited)
			b.wantResult(got, err, errandResult, false)
			if got.Attempt != 5 {
				b.Errorf("attempt %d, want 5: they are forgiven, not forgotten", got.Attempt)
			}
		})
	}
}

// An operation that was being undone has failed: it does not succeed by decision, and goes on being undone when it is let go.
func TestDecisionsAboutAnUndo(t *testing.T) {
	b := setup(t)
	stuck := func(b *bundle) *errand {
		e := b.declinedErrand()
		e.at["undo charge"] = func(context.Context) error { return errors.New("down") }
		_, err := e.do()
		b.wantError(err, ErrUndoing)
		_, err = e.do(&DoOpts{MaxAttempts: 1})
		b.wantError(err, ErrParked)
		record, err := Lookup[string](b.Context(), b.client, b.key)
		if err != nil || record.Failure == nil || record.Failure.Code != "declined" || record.Parked == nil {
			b.Errorf("looked up %+v, %v", record, err)
		}
		delete(e.at, "undo charge")
		delete(e.at, "between") // forward, it would succeed by now
		return e
	}
	b.each("CannotSucceed", func(b *bundle) {
		stuck(b)
		b.wantError(Settle(b.Context(), b.client, b.key, b.about(), "by hand"), ErrDecision)
		b.wantState(stateParked)
	})
	b.each("KeepsItsFailure", func(b *bundle) {
		e := stuck(b)
		b.must(nil, b.client.SettleFailed(b.Context(), b.key, b.about(), &Failure{Code: "other", Message: "m"}))
		_, err := e.do()
		b.wantFailure(err, errDeclined, false)
	})
	for name, decide := range map[string]func(b *bundle) error{
		"Resume":  func(b *bundle) error { return b.client.Resume(b.Context(), b.key, b.about()) },
		"Release": func(b *bundle) error { return b.client.Release(b.Context(), b.key, b.about()) },
	} {
		b.each(name, func(b *bundle) {
			e := stuck(b)
			b.must(nil, decide(b))
			b.wantState(stateReleased)
			_, err := e.do()
			b.wantFailure(err, errDeclined, false)
			if e.ran["receipt"] != 0 || e.ran["undo charge"] != 2 || e.ran["undo create"] != 1 {
				b.Errorf("ran %v", e.ran)
			}
			b.wantEffects(0)
		})
	}
	b.each("SettleStep", func(b *bundle) { // the operator has taken the step back
		e := stuck(b)
		b.must(nil, SettleStep(b.Context(), b.client, b.key, b.about(), "undo/charge", ""))
		_, err := e.do()
		b.wantFailure(err, errDeclined, false)
		if e.ran["undo charge"] != 1 || e.ran["undo create"] != 1 {
			b.Errorf("ran %v", e.ran)
		}
	})
}

// Of decisions at the same time one is carried out and written down.
func TestDecisionsAtTheSameTime(t *testing.T) {
	b := setup(t)
	other, _, _ := b.newClient()
	for round := range 5 {
		b.each(strconv.Itoa(round), func(b *bundle) {
			e, d := b.parked(), b.about()
			errs := make(chan error, 10)
			for _, c := range []*Client{b.client, other} {
				for _, decide := range decisions(c, b.key) {
					go func() { errs <- decide(b.Context(), d) }()
				}
			}
			done := 0
			for range cap(errs) {
				switch err := <-errs; {
				case err == nil:
					done++
				case !errors.Is(err, ErrDecision):
					b.Errorf("got %v", err)
				}
			}
			if lines := b.audited(); done != 1 || len(lines) != 1 {
				b.Errorf("%d were carried out, and written down is %q", done, lines)
			}
			if _, err := e.do(); errors.Is(err, ErrParked) {
				b.Errorf("it is parked still: %v", err)
			}
		})
	}
}
