package pgidem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
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

// decisions is every way to decide.
func decisions(c *Client, key Key) map[string]func(ctx context.Context, d Decision) error {
	return map[string]func(ctx context.Context, d Decision) error{
		"Settle":       func(ctx context.Context, d Decision) error { return Settle(ctx, c, key, d, "by hand") },
		"SettleFailed": func(ctx context.Context, d Decision) error { return c.SettleFailed(ctx, key, d, errDeclined) },
		"SettleStep":   func(ctx context.Context, d Decision) error { return SettleStep(ctx, c, key, d, "charge", "by hand") },
		"Resume":       func(ctx context.Context, d Decision) error { return c.Resume(ctx, key, d) },
		"Release":      func(ctx context.Context, d Decision) error { return c.Release(ctx, key, d) },
	}
}

// A decision that does not fit changes nothing, and nothing is written down.
func TestDecisionsThatDoNotFit(t *testing.T) {
	b := setup(t)
	for _, state := range slices.Concat(stepsStates, []string{""}) {
		b.each("State/"+state, func(b *bundle) {
			leave, d := func() {}, Decision{Claim: NewID(), Reason: "r", Actor: "a"}
			if state != "" {
				leave = b.inState(state)
				d.Claim = b.about().Claim
			}
			defer leave()
			if state == stateParked { // but seen before somebody else has decided
				d.Claim = NewID()
			}
			for name, decide := range decisions(b.client, b.key) {
				want := ErrDecision
				if state == "" {
					want = ErrNotFound
				}
				if err := decide(b.Context(), d); !errors.Is(err, want) {
					b.Errorf("%s: got %v, want %v", name, err, want)
				}
			}
			b.wantState(state)
			b.wantAudit()
		})
	}
	b.each("Unsaid", func(b *bundle) {
		b.parked()
		good := b.about()
		for what, d := range map[string]Decision{
			"Claim": {Claim: "", Reason: "r", Actor: "a"}, "no claim token": {Claim: "zz" + good.Claim[2:], Reason: "r", Actor: "a"},
			"Reason": {Claim: good.Claim, Actor: "a", Reason: " "}, "Actor": {Claim: good.Claim, Reason: "r"},
			"UTF-8": {Claim: good.Claim, Reason: "\xff", Actor: "a"}, "NUL": {Claim: good.Claim, Reason: "r", Actor: "a\x00"},
		} {
			for name, decide := range decisions(b.client, b.key) {
				err := decide(b.Context(), d)
				b.wantError(err, ErrConfig)
				if !strings.Contains(err.Error(), what) {
					b.Errorf("%s: got %v, want it to name %s", name, err, what)
				}
			}
		}
		b.wantError(b.client.SettleFailed(b.Context(), b.key, good, nil), ErrConfig)
		for _, step := range []string{"", "a\x00", strings.Repeat("s", MaxStepNameBytes+1)} {
			b.wantError(SettleStep(b.Context(), b.client, b.key, good, step, ""), ErrConfig)
		}
		b.wantState(stateParked)
		b.wantAudit()
	})
	b.each("AnotherStep", func(b *bundle) {
		b.parked()
		for _, step := range []string{"create", "receipt"} {
			err := SettleStep(b.Context(), b.client, b.key, b.about(), step, "by hand")
			b.wantError(err, ErrDecision)
			if !strings.Contains(err.Error(), `"charge"`) {
				b.Errorf("got %v, want it to name the step in doubt", err)
			}
		}
		b.wantState(stateParked)
	})
	b.each("ARecordedStep", func(b *bundle) { // of an operation that is parked without a call in doubt
		e := b.errand()
		e.at["charge"] = func(context.Context) error { return errors.New("down") }
		_, _ = e.do()
		_, err := e.do(&DoOpts{MaxAttempts: 1})
		b.wantError(err, ErrParked)
		err = SettleStep(b.Context(), b.client, b.key, b.about(), "create", "by hand")
		b.wantError(err, ErrDecision)
		b.wantState(stateParked)
		b.must(nil, SettleStep(b.Context(), b.client, b.key, b.about(), "charge", "by hand"))
		got, err := e.do()
		b.wantResult(got, err, "created, by hand, receipt", false)
	})
	b.each("NobodyCanBeAsked", func(b *bundle) { // to resume would park at once
		c := b.charging(StepOpts[string]{AtMostOnce: true})
		c.call = doubts["PlainError"]
		_, err := c.do()
		b.wantError(err, ErrParked)
		b.wantError(b.client.Resume(b.Context(), b.key, b.about()), ErrDecision)
		b.wantState(stateParked)
		b.must(nil, b.client.Release(b.Context(), b.key, b.about()))
		c.call = nil
		got, err := c.do()
		b.wantResult(got, err, "charged", false)
		c.want(2, 0)
	})
	b.each("AResultThatCannotBeSaved", func(b *bundle) {
		b.parked()
		b.wantError(Settle(b.Context(), b.client, b.key, b.about(), make(chan int)), ErrResult)
		b.wantError(SettleStep(b.Context(), b.client, b.key, b.about(), "charge", make(chan int)), ErrResult)
		b.wantState(stateParked)
		b.wantAudit()
	})
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

// The application's role needs no right to the audit, and without it nobody decides.
func TestDecisionNeedsTheAudit(t *testing.T) {
	b := setup(t, direct("it connects with a role of its own"))
	admin := b.observe()
	role := "pgidem_test_" + strings.ReplaceAll(NewID(), "-", "")
	for _, sql := range []string{
		"CREATE ROLE " + role + " LOGIN PASSWORD 'secret'",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON idempotency_keys, idempotency_steps TO " + role,
		"GRANT ALL ON effects TO " + role,
	} {
		b.must(admin.Exec(b.Context(), sql))
	}
	// Behind the client that uses the role, because cleanups run the last one first.
	b.Cleanup(func() {
		ctx := context.WithoutCancel(b.Context())
		pool, err := pgxpool.New(ctx, b.db.URL())
		if err != nil {
			b.Error(err)
			return
		}
		defer pool.Close()
		if _, err := pool.Exec(ctx, "DROP OWNED BY "+role+"; DROP ROLE "+role, pgx.QueryExecModeSimpleProtocol); err != nil {
			b.Error(err)
		}
	})
	b.client, _, _ = b.newClient(direct("it connects with a role of its own"), withPool(func(p *pgxpool.Config) {
		p.ConnConfig.User, p.ConnConfig.Password = role, "secret"
	}))
	b.each("TheApplication", func(b *bundle) {
		got, err := b.errand().do(&DoOpts{StartsWithTx: true})
		b.wantResult(got, err, errandResult, false)
		b.each("Undo", func(b *bundle) {
			_, err := b.declinedErrand().do()
			b.wantFailure(err, errDeclined, true)
		})
	})
	for _, name := range []string{"Settle", "SettleFailed", "SettleStep", "Resume", "Release"} {
		b.each(name, func(b *bundle) {
			e := b.errand() // parked without a call in doubt, so that every decision fits
			e.at["charge"] = func(context.Context) error { return errors.New("down") }
			_, _ = e.do()
			_, err := e.do(&DoOpts{MaxAttempts: 1})
			b.wantError(err, ErrParked)
			d := b.about()
			err = decisions(b.client, b.key)[name](b.Context(), d)
			b.wantError(err, ErrSchema)
			if !strings.Contains(err.Error(), "idempotency_audit") {
				b.Errorf("got %v, want it to name the table", err)
			}
			b.wantState(stateParked)
			b.must(admin.Exec(b.Context(), "GRANT INSERT ON idempotency_audit TO "+role))
			b.must(nil, decisions(b.client, b.key)[name](b.Context(), d))
			b.must(admin.Exec(b.Context(), "REVOKE INSERT ON idempotency_audit FROM "+role))
			who := one[string](b, admin, "SELECT role FROM idempotency_audit WHERE id = $1", b.key.ID)
			if who != role {
				b.Errorf("written down is the role %s, want %s", who, role)
			}
		})
	}
}

func TestDecisionOnABadKey(t *testing.T) {
	b := setup(t)
	d := Decision{Claim: NewID(), Reason: "r", Actor: "a"}
	for name, decide := range decisions(b.client, Key{Scope: "s"}) {
		if err := decide(b.Context(), d); !errors.Is(err, ErrInvalidKey) {
			b.Errorf("%s: got %v", name, err)
		}
	}
	b.must(nil, b.client.Close(b.Context()))
	for name, decide := range decisions(b.client, b.key) {
		if err := decide(b.Context(), d); !errors.Is(err, ErrClosed) {
			b.Errorf("%s on a closed client: got %v", name, err)
		}
	}
}
