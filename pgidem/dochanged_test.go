package pgidem

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// released is a program of several releases: the steps that its function asks for, and how it reads the records of earlier ones. The names
// of the steps that really run are noted in ran, their downstream keys in keys.
type released struct {
	b    *bundle
	ran  []string
	keys map[string]string
}

func (b *bundle) released() *released { return &released{b: b, keys: map[string]string{}} }

type version = func(ctx context.Context, op *Op) error

var errLater = errors.New("to be continued")

// first runs a version as far as it goes, and leaves the operation behind its last step.
func (r *released) first(run version) {
	r.b.Helper()
	_, err := Do(r.b.Context(), r.b.client, r.b.key, func(ctx context.Context, op *Op) (string, error) { return "", errors.Join(run(ctx, op), errLater) })
	if !errors.Is(err, errLater) {
		r.b.Fatal(err)
	}
	r.ran = nil
}

// next runs another version to its end.
func (r *released) next(run version, opts ...*DoOpts) error {
	_, err := Do(r.b.Context(), r.b.client, r.b.key, func(ctx context.Context, op *Op) (string, error) { return "done", run(ctx, op) }, opts...)
	return err
}

func (r *released) step(ctx context.Context, op *Op, name string, opts ...*StepOpts[string]) (string, error) {
	return Step(ctx, op, name, func(_ context.Context, s StepContext) (string, error) {
		r.ran = append(r.ran, name)
		r.keys[name] = s.Key()
		return name + "'s result", nil
	}, opts...)
}

// steps is a version that asks for steps of these names.
func (r *released) steps(names ...string) version {
	return func(ctx context.Context, op *Op) error {
		for _, name := range names {
			if _, err := r.step(ctx, op, name); err != nil {
				return err
			}
		}
		return nil
	}
}

func (r *released) wantRan(names ...string) {
	r.b.Helper()
	if !slices.Equal(r.ran, names) {
		r.b.Errorf("ran %q, want %q", r.ran, names)
	}
}

// wantSteps checks that a version is refused, says what is wrong with which step, and has run nothing; and that the old one still fits.
func (r *released) wantSteps(err error, says string, old version) {
	r.b.Helper()
	r.b.wantError(err, ErrSteps)
	if !strings.Contains(err.Error(), says) {
		r.b.Errorf("got %v, want it to say %s", err, says)
	}
	r.wantRan()
	r.b.wantState(stateReleased)
	if err := r.next(old); err != nil {
		r.b.Errorf("with the old release again: %v", err)
	}
}

// What does not fit the record is refused before anything of it runs.
func TestChangedSteps(t *testing.T) {
	b := setup(t)
	for name, c := range map[string]struct{ old, now, says string }{
		"OneIsGoneAtTheEnd": {"a b", "a", `"b" is recorded, and the function has ended without asking for it`},
		"OneIsGone":         {"a b", "b c", `"b" is asked for before "a"`},
		"AnotherName":       {"a b", "a c", `"c" is not recorded, but "b" is`},
		"OneIsNew":          {"a b", "a c b", `"c" is not recorded, but "b" is`},
		"AnotherOrder":      {"a b c", "a c b", `"c" is asked for before "b"`},
		"AllAreGone":        {"a b", "", `"a" is recorded`},
	} {
		b.each(name, func(b *bundle) {
			r := b.released()
			old := r.steps(strings.Fields(c.old)...)
			r.first(old)
			r.wantSteps(r.next(r.steps(strings.Fields(c.now)...)), c.says, old)
		})
	}
	b.each("GoneBeforeFinishTx", func(b *bundle) {
		r := b.released()
		old := r.steps("a", "b")
		r.first(old)
		err := r.next(func(ctx context.Context, op *Op) error {
			if err := r.steps("a")(ctx, op); err != nil {
				return err
			}
			_, err := FinishTx(ctx, op, "end", func(context.Context, Tx) (string, error) { r.ran = append(r.ran, "end"); return "", nil })
			return err
		})
		r.wantSteps(err, `"end" is not recorded, but "b" is`, old)
	})
	b.each("SwallowedByTheFunction", func(b *bundle) {
		r := b.released()
		old := r.steps("a", "b")
		r.first(old)
		err := r.next(func(ctx context.Context, op *Op) error {
			_ = r.steps("a", "c", "d")(ctx, op)
			_ = r.steps("e")(ctx, op) // what comes behind a step that failed is not admitted either
			return nil
		})
		r.wantSteps(err, `"c" is not recorded`, old)
	})
	b.each("TheLastHasBecomeOneInBetween", func(b *bundle) {
		r := b.released()
		r.first(r.steps("a", "end"))
		err := r.next(func(ctx context.Context, op *Op) error {
			if err := r.steps("a")(ctx, op); err != nil {
				return err
			}
			_, err := FinishTx(ctx, op, "end", func(context.Context, Tx) (string, error) { r.ran = append(r.ran, "end"); return "", nil })
			return err
		})
		r.wantSteps(err, `"end" is recorded, and not as the last`, r.steps("a", "end"))
	})
}

func TestRemovedSteps(t *testing.T) {
	b := setup(t)
	for name, c := range map[string]struct {
		now, removed string
		ran          []string
	}{
		"First":    {"b c d", "a", []string{"d"}},
		"Between":  {"a c d", "b", []string{"d"}},
		"Last":     {"a b d", "c", []string{"d"}},
		"AtTheEnd": {"a b", "c", nil},
		"Several":  {"b", "a c", nil},
		"All":      {"d", "a b c", []string{"d"}},
		"NotGone":  {"a b c d", "b", []string{"d"}},
	} {
		b.each(name, func(b *bundle) {
			r := b.released()
			r.first(r.steps("a", "b", "c"))
			if err := r.next(r.steps(strings.Fields(c.now)...), &DoOpts{RemovedSteps: strings.Fields(c.removed)}); err != nil {
				b.Fatal(err)
			}
			r.wantRan(c.ran...)
		})
	}
	b.each("AskedForBehindAnother", func(b *bundle) { // it must not run again
		r := b.released()
		old := r.steps("a", "b")
		r.first(old)
		r.wantSteps(r.next(r.steps("b", "a"), &DoOpts{RemovedSteps: []string{"a"}}), `"a" is recorded as "a", which was declared to be gone`, old)
	})
	b.each("ACallInDoubtIsNotGone", func(b *bundle) {
		r := b.released()
		c := b.charging(StepOpts[string]{Timeout: time.Hour})
		c.call = doubts["Unknown"]
		_, _ = c.do()
		b.letDeadlinePass()
		err := r.next(r.steps(), &DoOpts{RemovedSteps: []string{"charge"}})
		b.wantError(err, ErrSteps)
		if b.intents() != 1 {
			b.Error("it is not known any more that a call is in doubt")
		}
	})
}

func TestFormerNames(t *testing.T) {
	b := setup(t)
	b.each("Recorded", func(b *bundle) {
		r := b.released()
		r.first(r.steps("a", "old"))
		var got string
		err := r.next(func(ctx context.Context, op *Op) (err error) {
			if err := r.steps("a")(ctx, op); err != nil {
				return err
			}
			got, err = r.step(ctx, op, "new", &StepOpts[string]{FormerNames: []string{"oldest", "old"}})
			return err
		})
		if err != nil || got != "old's result" {
			b.Errorf("got %q, %v; want the recorded result", got, err)
		}
		r.wantRan()
	})
	// The service has seen the oldest name's key, so it must go on seeing that one, whichever release calls.
	b.each("DownstreamKey", func(b *bundle) {
		r := b.released()
		down := errors.New("down")
		fail := func(name string, opts *StepOpts[string]) string {
			var key string
			err := r.next(func(ctx context.Context, op *Op) error {
				_, err := Step(ctx, op, name, func(_ context.Context, s StepContext) (string, error) {
					key = s.Key()
					return "", down
				}, opts)
				return err
			})
			if !errors.Is(err, down) {
				b.Fatal(err)
			}
			return key
		}
		oldest := fail("oldest", nil)
		middle := fail("old", &StepOpts[string]{FormerNames: []string{"oldest"}})
		newest := fail("new", &StepOpts[string]{FormerNames: []string{"oldest", "old"}})
		other := fail("other", nil)
		if oldest != middle || middle != newest || other == oldest {
			b.Errorf("downstream keys %q, %q, %q and of another step %q", oldest, middle, newest, other)
		}
	})
	// An intent keeps the name under which it was committed, to its end.
	b.each("Intended", func(b *bundle) {
		c := b.charging(StepOpts[string]{Timeout: time.Hour})
		c.call = doubts["Unknown"]
		_, _ = c.do()
		b.letDeadlinePass()
		var key, name string
		got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "pay", func(context.Context, StepContext) (string, error) { b.Error("it is called again"); return "", nil },
				&StepOpts[string]{FormerNames: []string{"charge"}, Reconcile: func(_ context.Context, s StepContext) (Reconciled[string], error) {
					key, name = s.Key(), s.Name()
					return Reconciled[string]{Outcome: ReconcileDone, Value: "charged"}, nil
				}})
		})
		b.wantResult(got, err, "charged", false)
		if key != c.keys[0] || name != "charge" || !slices.Equal(b.recorded(), []string{"charge"}) {
			b.Errorf("key %q, want %q; name %q; recorded %q", key, c.keys[0], name, b.recorded())
		}
	})
	b.each("Undone", func(b *bundle) { // it is undone under the name of its record, by whichever release
		r := b.released()
		r.first(r.steps("old"))
		undone := 0
		opts := &StepOpts[string]{FormerNames: []string{"old"}, Undo: func(context.Context, StepContext, string) error {
			if undone++; undone == 1 {
				return errors.New("down")
			}
			return nil
		}}
		fails := func(ctx context.Context, op *Op) error {
			_, err := r.step(ctx, op, "new", opts)
			return errors.Join(err, Permanent(errDeclined))
		}
		b.wantError(r.next(fails), ErrUndoing)
		b.wantFailure(r.next(fails), errDeclined, false)
		if undone != 2 || !slices.Equal(b.recorded(), []string{"old", "undo/old"}) {
			b.Errorf("undone %d times, recorded %q", undone, b.recorded())
		}
	})
	b.each("AnotherStepHasTheOldName", func(b *bundle) {
		r := b.released()
		r.first(r.steps("a"))
		err := r.next(func(ctx context.Context, op *Op) error {
			_, err := r.step(ctx, op, "b", &StepOpts[string]{FormerNames: []string{"a"}})
			return errors.Join(err, r.steps("a")(ctx, op))
		})
		r.wantSteps(err, "under another name", r.steps("a"))
	})
}

func TestTreatAsDone(t *testing.T) {
	declared := "as if"
	with := func(r *released, got *string) version {
		return func(ctx context.Context, op *Op) error {
			if err := r.steps("a")(ctx, op); err != nil {
				return err
			}
			value, err := r.step(ctx, op, "new", &StepOpts[string]{TreatAsDone: &declared, Undo: func(context.Context, StepContext, string) error {
				r.ran = append(r.ran, "undo new")
				return nil
			}})
			if *got = value; err != nil {
				return err
			}
			return r.steps("b", "c")(ctx, op)
		}
	}
	b := setup(t)
	for name, c := range map[string]struct {
		old  []string
		want string
		ran  []string
	}{
		"Passed":    {[]string{"a", "b"}, declared, []string{"c"}},
		"NotPassed": {[]string{"a"}, "new's result", []string{"new", "b", "c"}},
		"Fresh":     {nil, "new's result", []string{"a", "new", "b", "c"}},
	} {
		b.each(name, func(b *bundle) {
			r := b.released()
			var got string
			r.first(r.steps(c.old...))
			if err := r.next(with(r, &got)); err != nil || got != c.want {
				b.Errorf("got %q, %v; want %q", got, err, c.want)
			}
			r.wantRan(c.ran...)
		})
	}
	b.each("IsNotUndone", func(b *bundle) {
		r := b.released()
		var got string
		r.first(r.steps("a", "b"))
		err := r.next(func(ctx context.Context, op *Op) error {
			return errors.Join(with(r, &got)(ctx, op), Permanent(errDeclined))
		})
		b.wantFailure(err, errDeclined, true)
		r.wantRan("c")
	})
}
