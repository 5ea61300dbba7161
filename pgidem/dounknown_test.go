package pgidem

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// The tests of lost answers to the COMMITs of operations of several steps, by what was committed. Whatever was lost, there is one
// result, its bytes are the same for everybody, a call's function never runs again, and a transaction's runs again only where it was not
// committed.

// passage is an operation that can be led to each of its COMMITs: a transaction, a call, and another transaction or none.
type passage struct {
	b       *bundle
	opts    *DoOpts
	create  StepOpts[string]
	charge  StepOpts[string]
	refusal error              // what the call answers
	early   error              // what the function returns before its first step
	plain   bool               // the function's own result is the operation's
	at      func(place string) // a body begins, or "return"; nil: goes on

	ran map[string]int // by body
}

func (j *passage) do(client *Client) (Result[string], error) {
	return Do(j.b.Context(), client, j.b.key, j.run, j.opts)
}

func (j *passage) run(ctx context.Context, op *Op) (string, error) {
	if j.early != nil {
		return "", j.early
	}
	body := func(name string) func(context.Context, Tx) (string, error) {
		return func(ctx context.Context, tx Tx) (string, error) {
			j.ran[name]++
			j.reach(name)
			return j.b.effect(name)(ctx, tx)
		}
	}
	created, err := StepTx(ctx, op, "create", body("create"), &j.create)
	if err != nil {
		return "", err
	}
	charged, err := Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) {
		j.ran["charge"]++
		j.reach("charge")
		return "charge", j.refusal
	}, &j.charge)
	switch {
	case err != nil:
		return "", err
	case j.plain:
		j.reach("return")
		return created + ", " + charged, nil
	}
	return FinishTx(ctx, op, "receipt", func(ctx context.Context, tx Tx) (string, error) {
		receipt, err := body("receipt")(ctx, tx)
		return created + ", " + charged + ", " + receipt, err
	})
}

func (j *passage) reach(place string) {
	if j.at != nil {
		j.at(place)
	}
}

// undoing makes the call fail for good, so that what was created is taken back: in a transaction, or by another call.
func (j *passage) undoing(foreign bool) {
	j.refusal = Permanent(errors.New("declined"))
	if foreign {
		j.create.Undo = func(context.Context, StepContext, string) error { j.ran["undo"]++; return nil }
		return
	}
	j.create.UndoTx = func(ctx context.Context, tx Tx, _ string) error {
		j.ran["undo"]++
		_, err := tx.Exec(ctx, "DELETE FROM effects WHERE key = $1", j.b.key.ID)
		return err
	}
}

// cutPoints are around the n-th COMMIT: before, in the middle of and behind the message and its answer.
func cutPoints(n int) map[string]faultconn.Point {
	points := make(map[string]faultconn.Point)
	for _, when := range []faultconn.When{faultconn.Before, faultconn.Mid, faultconn.After} {
		sent := atCommit(when)
		sent.Nth = n
		points[fmt.Sprintf("Commit %v", when)] = sent
		points[fmt.Sprintf("Answer %v", when)] = faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", Nth: n, When: when}
	}
	return points
}

var errDown = errors.New("the provider is down")

// doCommits are the COMMITs of operations of several steps.
var doCommits = map[string]struct {
	prepare func(j *passage)
	before  func(j *passage) // done before the cut is armed
	commit  int              // which of them is lost
	again   string           // the body that runs again where it was not committed, "" for none
	err     error            // what the caller gets
	fails   bool             // the caller gets a Failure
	state   string           // behind it
	effects int
	resume  bool // a later call goes on and succeeds
}{
	"Claim":  {commit: 1, state: stateSucceeded, effects: 2},
	"StepTx": {commit: 2, again: "create", state: stateSucceeded, effects: 2},
	"StepTxBehindStartsWithTx": {
		prepare: func(j *passage) { j.opts = &DoOpts{StartsWithTx: true} },
		commit:  1, again: "create", state: stateSucceeded, effects: 2,
	},
	"StepTxBehindStartsWithTxOverAnExpiredRow": {
		prepare: func(j *passage) { j.opts = &DoOpts{StartsWithTx: true} },
		before: func(j *passage) {
			j.b.must(Do(j.b.Context(), j.b.client, j.b.key, func(context.Context, *Op) (string, error) { return "old", nil }, &DoOpts{TTL: time.Microsecond}))
		},
		commit: 1, again: "create", state: stateSucceeded, effects: 2,
	},
	"Step": {commit: 3, state: stateSucceeded, effects: 2},
	"Intent": {
		prepare: func(j *passage) { j.charge.AtMostOnce = true },
		commit:  3, state: stateSucceeded, effects: 2,
	},
	"IntentToReconcile": {
		prepare: func(j *passage) {
			j.charge.Reconcile = func(context.Context, StepContext) (Reconciled[string], error) {
				j.ran["reconcile"]++
				return Reconciled[string]{}, nil
			}
		},
		commit: 3, state: stateSucceeded, effects: 2,
	},
	"StepBehindAnIntent": {
		prepare: func(j *passage) { j.charge.AtMostOnce = true },
		commit:  4, state: stateSucceeded, effects: 2,
	},
	"FinishTx": {commit: 4, again: "receipt", state: stateSucceeded, effects: 2},
	"Finish": {
		prepare: func(j *passage) { j.plain = true },
		commit:  4, state: stateSucceeded, effects: 1,
	},
	"FailureBeforeTheFirstStep": {
		prepare: func(j *passage) { j.early = Permanent(errors.New("declined")) },
		commit:  2, fails: true, state: stateFailed,
	},
	"FailureBehindStartsWithTx": {
		prepare: func(j *passage) {
			j.opts = &DoOpts{StartsWithTx: true}
			j.early = Permanent(errors.New("declined"))
		},
		commit: 1, fails: true, state: stateFailed,
	},
	"Release": {
		prepare: func(j *passage) { j.refusal = errDown },
		commit:  3, err: errDown, state: stateReleased, effects: 1, resume: true,
	},
	"ReleaseOfNothing": {
		prepare: func(j *passage) { j.early = errDown },
		commit:  2, err: errDown, state: "", resume: true,
	},
	"Takeover": {
		before: func(j *passage) {
			j.refusal = errDown
			if _, err := j.do(j.b.client); !errors.Is(err, errDown) {
				j.b.Fatalf("got %v, want the step's own error", err)
			}
			j.refusal = nil
			j.ran["charge"] = 0
		},
		commit: 1, state: stateSucceeded, effects: 2,
	},
	"Park": {
		prepare: func(j *passage) { j.refusal, j.charge.AtMostOnce = errDown, true },
		commit:  4, err: ErrParked, state: stateParked, effects: 1,
	},
	"ParkWithoutAnIntent": {
		prepare: func(j *passage) { j.refusal = Unknown(errDown) },
		commit:  3, err: ErrParked, state: stateParked, effects: 1,
	},
	"BeginUndo": {
		prepare: func(j *passage) { j.undoing(false) },
		commit:  3, fails: true, state: stateFailed,
	},
	"UndoTx": {
		prepare: func(j *passage) { j.undoing(false) },
		commit:  4, again: "undo", fails: true, state: stateFailed,
	},
	"Undo": {
		prepare: func(j *passage) { j.undoing(true) },
		commit:  4, fails: true, state: stateFailed, effects: 1,
	},
	"FinishOfAnUndo": {
		prepare: func(j *passage) { j.undoing(false) },
		commit:  5, fails: true, state: stateFailed,
	},
}

// G7 for operations of several steps, row by row: the connection is cut around one COMMIT.
func TestDoLostCommit(t *testing.T) {
	for name, c := range doCommits {
		t.Run(name, func(t *testing.T) {
			shared := setup(t, withPool(func(p *pgxpool.Config) { p.MaxConns = 3 }))
			shared.warmDo(shared.client)
			shared.faults.RefuseCancel(true)
			other, _, _ := shared.newClient(withPool(func(p *pgxpool.Config) { p.MaxConns = 3 }))
			for at, point := range cutPoints(c.commit) {
				t.Run(at, func(t *testing.T) {
					b := *shared
					b.T, b.key = t, Key{"acct_42/rides", NewID()}
					j := &passage{b: &b, ran: make(map[string]int)}
					if c.prepare != nil {
						c.prepare(j)
					}
					if c.before != nil {
						c.before(j)
					}
					cut := b.faults.Cut(point)
					got, err := j.do(b.client)
					if !cut.Fired() {
						b.Fatal("the cut did not strike")
					}
					b.until("the row has the state "+c.state, // a release that was lost is sent again in the background
						"SELECT $3 = coalesce((SELECT state FROM idempotency_keys WHERE scope = $1 AND id = $2), '')", b.key.Scope, b.key.ID, c.state)
					b.wantEffects(c.effects)
					b.wantBodies(j, c.again, point)
					b.wantOneOutcome(j, other, got, err, c.err, c.fails)
					if c.resume {
						j.refusal, j.early = nil, nil
						got, err := j.do(other)
						b.wantResult(got, err, "create, charge, receipt", false)
						b.wantEffects(2)
					}
					b.wantNoKeyLock()
				})
			}
		})
	}
}

// wantBodies checks how often each body ran: again names the one that ran twice where its COMMIT did not happen.
func (b *bundle) wantBodies(j *passage, again string, point faultconn.Point) {
	b.Helper()
	for body, ran := range j.ran {
		least, most := 1, 1
		if body == again && point.Side == faultconn.Client {
			most = 2
			if point.When != faultconn.After { // then the server may have got it, or not
				least = 2
			}
		}
		if ran < least || ran > most {
			b.Errorf("the body %s ran %d times, want %d to %d", body, ran, least, most)
		}
	}
}

// wantOneOutcome checks what the call whose answer was lost got, and that another client gets the same.
func (b *bundle) wantOneOutcome(j *passage, other *Client, got Result[string], err, kind error, fails bool) {
	b.Helper()
	want := "create, charge, receipt"
	if j.plain {
		want = "create, charge"
	}
	switch {
	case kind != nil:
		if !errors.Is(err, kind) {
			b.Errorf("got %v, want %v", err, kind)
		}
		if errors.Is(kind, ErrParked) {
			b.wantError(second(j.do(other)), ErrParked)
		}
	case fails:
		replayed, replay := j.do(other)
		for _, err := range []error{err, replay} {
			var failure *Failure
			if !errors.As(err, &failure) || failure.Message != "declined" {
				b.Errorf("got %v, want the failure", err)
			}
		}
		if got.Replayed || !replayed.Replayed {
			b.Errorf("replayed: the first %v, the other %v; want false, true", got.Replayed, replayed.Replayed)
		}
	default:
		b.wantResult(got, err, want, false)
		again, err := j.do(other)
		b.wantResult(again, err, want, true)
		if saved := one[string](b, b.observe(), "SELECT convert_from(result, 'UTF8') FROM idempotency_keys WHERE id = $1", b.key.ID); saved != fmt.Sprintf("%q", want) {
			b.Errorf("saved is %s", saved)
		}
	}
}

// wantNoKeyLock checks that nobody holds a key's lock.
func (b *bundle) wantNoKeyLock() {
	b.Helper()
	b.until("no key's lock is held", `SELECT count(*) = 0 FROM pg_locks
		WHERE locktype = 'advisory' AND objsubid = 1 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`)
}
