package pgidem

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// mortal lets a client's liveness connection be ended for good: to everybody else the client is dead then, while it goes on.
type mortal struct{ dead atomic.Bool }

func (m *mortal) option() option {
	return withPool(func(p *pgxpool.Config) {
		p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if m.dead.Load() {
				return errors.New("no new connections for the dead")
			}
			return nil
		}
	})
}

// die returns what brings the client back, so that it can be closed in the end.
func (m *mortal) die(b *bundle, c *Client) (rise func()) {
	b.Helper()
	m.dead.Store(true)
	b.Cleanup(func() { m.dead.Store(false) })
	b.killLiveness(c)
	return func() { m.dead.Store(false) }
}

var errDeclined = &Failure{Code: "declined", Message: "no", Details: map[string]string{"card": "4242"}}

// declinedErrand is an errand that fails for good behind two steps, which can be taken back.
func (b *bundle) declinedErrand() *errand {
	e := b.errand()
	e.undos = true
	e.at["between"] = func(context.Context) error { return Permanent(errDeclined) }
	return e
}

func TestUndoRunsInReverseAndIsRecorded(t *testing.T) {
	b := setup(t)
	e := b.declinedErrand()
	e.at["undo charge"] = func(context.Context) error {
		b.wantState(stateUndoing) // before the first undo
		return nil
	}
	e.at["undo create"] = func(context.Context) error {
		if got := b.recorded(); !slices.Equal(got, []string{"create", "charge", "undo/charge"}) {
			b.Errorf("recorded before the second undo: %q", got)
		}
		return nil
	}
	_, err := e.do()
	b.wantFailure(err, errDeclined, true)
	if !slices.Equal(e.undone, []string{"charged", "created"}) {
		b.Errorf("taken back: %q, want the last first", e.undone)
	}
	if got := b.recorded(); !slices.Equal(got, []string{"create", "charge", "undo/charge", "undo/create"}) {
		b.Errorf("recorded: %q", got)
	}
	if len(e.keys) != 2 || e.keys[0] == e.keys[1] {
		b.Errorf("downstream keys %q, want one of its own for the undo", e.keys)
	}
	b.wantEffects(0)
	_, err = e.do()
	b.wantFailure(err, errDeclined, false)
}

// A failing undo keeps the operation undoing: the next call goes on there, whatever its function would do by now.
func TestUndoIsRetriedAndNeverGoesForward(t *testing.T) {
	for _, fails := range []string{"undo charge", "undo create"} {
		t.Run(fails, func(t *testing.T) {
			b := setup(t)
			e := b.declinedErrand()
			down := errors.New("the provider is down")
			e.at[fails] = func(context.Context) error { return down }
			for range 2 {
				_, err := e.do()
				b.wantError(err, ErrUndoing)
				if !errors.Is(err, down) || !strings.Contains(err.Error(), fails[len("undo "):]) {
					b.Errorf("got %v, want its cause and the step's name", err)
				}
				b.wantState(stateReleased)
			}
			record, err := Lookup[string](b.Context(), b.client, b.key)
			if err != nil || record.Failure == nil || record.Failure.Code != "declined" {
				b.Errorf("looked up %+v, %v; want the failure that it is undone for", record, err)
			}
			e.at = map[string]func(context.Context) error{} // now everything would succeed
			other, _, _ := b.newClient()
			_, err = Do(b.Context(), other, b.key, e.run)
			b.wantFailure(err, errDeclined, false)
			want := map[string]int{"begin": 3, "create": 1, "charge": 1, "between": 3, "undo charge": 1, "undo create": 1}
			want[fails] = 3
			e.wantRan(want)
			b.wantEffects(0)
			b.wantState(stateFailed)
			if undos := slices.Compact(slices.Sorted(slices.Values(e.keys))); len(undos) != 2 {
				b.Errorf("downstream keys %q, want one for the charge and one for its undo", e.keys)
			}
		})
	}
}

// What an undo calls definite is not saved: the operation fails with the error that it is undone for.
func TestUndoCannotFailForGood(t *testing.T) {
	b := setup(t)
	e := b.declinedErrand()
	e.at["undo charge"] = func(context.Context) error { return Permanent(errors.New("no refund")) }
	_, err := e.do()
	b.wantError(err, ErrUndoing)
	if f := (*Failure)(nil); errors.As(err, &f) || !strings.Contains(err.Error(), "no refund") {
		b.Errorf("got %v, %+v", err, f)
	}
	delete(e.at, "undo charge")
	_, err = e.do()
	b.wantFailure(err, errDeclined, false)
}

func TestUndoPanicAndGoexit(t *testing.T) {
	b := setup(t)
	for how, leave := range leaves {
		for _, place := range []string{"undo charge", "undo create"} {
			b.each(how+"/"+place, func(b *bundle) {
				e := b.declinedErrand()
				e.at[place] = leave
				done := make(chan struct{})
				go func() {
					defer close(done)
					defer func() { _ = recover() }()
					_, _ = e.do()
					b.Error("Do has returned")
				}()
				<-done
				b.wantState(stateReleased)
				delete(e.at, place)
				_, err := e.do()
				b.wantFailure(err, errDeclined, false)
				b.wantEffects(0)
			})
		}
	}
}

// An owner that dies between two undos is replaced, and the one that has come through is not repeated. What the dead one still does
// is refused.
func TestUndoIsTakenOver(t *testing.T) {
	var m mortal
	b := setup(t, m.option())
	other, _, _ := b.newClient()
	zombie, taker := b.declinedErrand(), b.declinedErrand()
	inUndo, goOn := make(chan struct{}), make(chan struct{})
	zombie.at["undo charge"] = func(ctx context.Context) error {
		close(inUndo)
		<-goOn
		return nil
	}
	first := async(b, func() (Result[string], error) { return zombie.do() })
	<-inUndo
	rise := m.die(b, b.client)
	_, err := Do(b.Context(), other, b.key, taker.run)
	b.wantFailure(err, errDeclined, false)
	taker.wantRan(map[string]int{"begin": 1, "between": 1, "undo charge": 1, "undo create": 1})
	close(goOn)
	rise()
	_, err = wait(first)
	b.wantFailure(err, errDeclined, false)
	if zombie.ran["undo create"] != 0 {
		b.Error("the old owner went on")
	}
	if got := b.recorded(); !slices.Equal(got, []string{"create", "charge", "undo/charge", "undo/create"}) {
		b.Errorf("recorded: %q", got)
	}
}

func wait[T any](answers <-chan answer[T]) (Result[T], error) {
	a := <-answers
	return a.Result, a.err
}

// An undo in a transaction that was taken over while it ran leaves nothing.
func TestUndoTxIsFenced(t *testing.T) {
	var m mortal
	b := setup(t, m.option())
	other, _, _ := b.newClient()
	zombie, taker := b.declinedErrand(), b.declinedErrand()
	var late error
	zombie.at["undo charge"] = func(ctx context.Context) error {
		m.die(b, b.client)
		_, late = Do(b.Context(), other, b.key, taker.run)
		return nil
	}
	_, err := zombie.do()
	b.wantFailure(late, errDeclined, false)
	b.wantFailure(err, errDeclined, false)
	if zombie.ran["undo create"] != 0 || taker.ran["undo create"] != 1 {
		b.Errorf("the zombie went to %v, the taker to %v", zombie.ran, taker.ran)
	}
	b.wantEffects(0)
}

// A run that takes an operation up while it is undone asks for the recorded steps and starts no other, whatever its function does
// with the error.
func TestUndoStartsNoNewStep(t *testing.T) {
	type tail = func(ctx context.Context, op *Op, fail func()) (string, error)
	for name, goOn := range map[string]tail{
		"ReturnsTheError": func(ctx context.Context, op *Op, fail func()) (string, error) {
			return StepTx(ctx, op, "late", func(context.Context, Tx) (string, error) { fail(); return "", nil })
		},
		"GoesOn": func(ctx context.Context, op *Op, fail func()) (string, error) {
			for n := range 3 {
				_, err := Step(ctx, op, fmt.Sprint("late", n), func(context.Context, StepContext) (string, error) { fail(); return "", nil })
				if !errors.Is(err, ErrUndoing) {
					return "", errors.Join(err, errors.New("a new step was admitted"))
				}
			}
			_, err := FinishTx(ctx, op, "end", func(context.Context, Tx) (string, error) { fail(); return "", nil })
			if !errors.Is(err, ErrUndoing) {
				return "", errors.Join(err, errors.New("FinishTx was admitted"))
			}
			return "all is well", nil
		},
		"Succeeds":     func(context.Context, *Op, func()) (string, error) { return "all is well", nil },
		"FailsForNow":  func(context.Context, *Op, func()) (string, error) { return "", errors.New("not now") },
		"FailsForElse": func(context.Context, *Op, func()) (string, error) { return "", Permanent(errors.New("other")) },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			e := b.declinedErrand()
			e.at["undo charge"] = func(context.Context) error { return errors.New("down") }
			_, err := e.do()
			b.wantError(err, ErrUndoing)
			again := b.errand()
			again.undos = true
			_, err = Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
				_, err := again.untilCharged(ctx, op)
				if err != nil {
					return "", err
				}
				return goOn(ctx, op, func() { b.Error("a step was started") })
			})
			b.wantFailure(err, errDeclined, false)
			if !slices.Equal(again.undone, []string{"charged", "created"}) {
				b.Errorf("taken back: %q", again.undone)
			}
			b.wantEffects(0)
		})
	}
}

// untilCharged is the errand without its end.
func (e *errand) untilCharged(ctx context.Context, op *Op) (string, error) {
	_, err := StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
		_, err := e.b.effect("")(ctx, tx)
		return "created", errors.Join(err, e.reach(ctx, "create"))
	}, e.undoTx())
	if err != nil {
		return "", err
	}
	return Step(ctx, op, "charge", func(ctx context.Context, _ StepContext) (string, error) {
		return "charged", e.reach(ctx, "charge")
	}, e.undo())
}

// A step whose undo is not known, because its function did not come to it, is never passed over.
func TestUndoPassesOverNothing(t *testing.T) {
	undone := 0
	takeBack := func(ctx context.Context, _ StepContext, _ string) error { undone++; return ctx.Err() }
	charge := func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "charged", nil }, &StepOpts[string]{Undo: takeBack})
	}
	resume := func(b *bundle, opts *DoOpts, fn func(ctx context.Context, op *Op) (string, error)) error {
		_, err := Do(b.Context(), b.client, b.key, fn, opts)
		return err
	}
	declined := func(ctx context.Context, op *Op) (string, error) {
		_, err := charge(ctx, op)
		return "", errors.Join(err, Permanent(errDeclined))
	}
	b := setup(t)
	// Each leaves a recorded step: running behind a transient error, or undoing.
	states := map[string]func(b *bundle){
		"Running": func(b *bundle) {
			down := errors.New("down")
			err := resume(b, nil, func(ctx context.Context, op *Op) (string, error) {
				_, err := charge(ctx, op)
				return "", errors.Join(err, down)
			})
			if !errors.Is(err, down) {
				b.Fatal(err)
			}
		},
		"Undoing": func(b *bundle) {
			err := resume(b, nil, func(ctx context.Context, op *Op) (string, error) {
				_, err := Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "charged", nil },
					&StepOpts[string]{Undo: func(context.Context, StepContext, string) error { return errors.New("down") }})
				return "", errors.Join(err, Permanent(errDeclined))
			})
			b.wantError(err, ErrUndoing)
		},
	}
	for state, leave := range states {
		for name, c := range map[string]struct {
			opts *DoOpts
			fn   func(ctx context.Context, op *Op) (string, error)
			want error
		}{
			"NotAsked": {nil, func(context.Context, *Op) (string, error) { return "", Permanent(errDeclined) }, ErrSteps},
			"NotDecoded": {nil, func(ctx context.Context, op *Op) (string, error) {
				_, err := Step(ctx, op, "charge", func(context.Context, StepContext) (int, error) { return 0, nil },
					&StepOpts[int]{Undo: func(context.Context, StepContext, int) error { undone++; return nil }})
				return "", Permanent(err)
			}, ErrResult},
			"TimeOver": {&DoOpts{Timeout: time.Nanosecond}, func(ctx context.Context, op *Op) (string, error) {
				<-ctx.Done()
				return declined(ctx, op)
			}, nil},
		} {
			b.each(state+"/"+name, func(b *bundle) {
				leave(b)
				undone = 0
				err := resume(b, c.opts, c.fn)
				if f := (*Failure)(nil); errors.As(err, &f) || err == nil || undone != 0 || c.want != nil && !errors.Is(err, c.want) {
					b.Errorf("got %v, taken back %d times; want %v", err, undone, c.want)
				}
				b.wantState(stateReleased)
				err = resume(b, nil, declined)
				want := errDeclined
				if f := (*Failure)(nil); state == "Running" && name == "NotDecoded" && errors.As(err, &f) {
					want = f // the function has called this one definite
				}
				b.wantFailure(err, want, state == "Running" && name != "NotDecoded")
				if undone != 1 {
					b.Errorf("taken back %d times, want once", undone)
				}
			})
		}
	}
}

// The caller's context ends while steps are taken back: what is not taken back yet is left to the next call.
func TestUndoContextEnds(t *testing.T) {
	b := setup(t)
	e := b.declinedErrand()
	gone := errors.New("the caller has gone")
	ctx, cancel := context.WithCancelCause(b.Context())
	e.at["undo charge"] = func(context.Context) error { cancel(gone); return nil }
	_, err := Do(ctx, b.client, b.key, e.run)
	if !errors.Is(err, gone) {
		b.Errorf("got %v, want the cause", err)
	}
	b.wantState(stateReleased)
	delete(e.at, "undo charge")
	_, err = e.do()
	b.wantFailure(err, errDeclined, false)
	if !slices.Equal(e.undone, []string{"charged", "created"}) {
		b.Errorf("taken back: %q, want each once", e.undone)
	}
}

// Steps without an undo are left as they are, between others too.
func TestUndoOfSomeSteps(t *testing.T) {
	b := setup(t)
	var undone []string
	takeBack := func(ctx context.Context, s StepContext, _ string) error {
		undone = append(undone, s.Name())
		return ctx.Err()
	}
	_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		for _, name := range []string{"a", "b", "c"} {
			opts := &StepOpts[string]{Undo: takeBack}
			if name == "b" {
				opts = nil
			}
			if _, err := Step(ctx, op, name, func(context.Context, StepContext) (string, error) { return name, nil }, opts); err != nil {
				return "", err
			}
		}
		return "", Permanent(errDeclined)
	})
	b.wantFailure(err, errDeclined, true)
	if !slices.Equal(undone, []string{"undo/c", "undo/a"}) {
		b.Errorf("taken back: %q", undone)
	}
}
