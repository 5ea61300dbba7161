package pgidem

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

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
