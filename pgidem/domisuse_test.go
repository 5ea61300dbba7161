package pgidem

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// wantMisuse checks that an operation's function is told what it does wrong, and that nothing of the operation is left.
func (b *bundle) wantMisuse(says string, fn func(ctx context.Context, op *Op) (string, error), opts ...*DoOpts) {
	b.Helper()
	_, err := Do(b.Context(), b.client, b.key, fn, opts...)
	b.wantError(err, ErrOpMisuse)
	if !strings.Contains(err.Error(), says) {
		b.Errorf("got %v, want it to say %q", err, says)
	}
	b.wantState("")
	b.wantEffects(0)
}

// inStep and inTx are steps that must not run.
func (b *bundle) inStep(context.Context, StepContext) (string, error) {
	b.Error("the step has run")
	return "", nil
}

func (b *bundle) inTx(ctx context.Context, tx Tx) (string, error) {
	b.Error("the step has run")
	return b.effect("")(ctx, tx)
}

func TestMisuseNames(t *testing.T) {
	b := setup(t)
	for name, c := range map[string]struct{ name, says string }{
		"Empty":   {"", "empty"},
		"TooLong": {strings.Repeat("n", MaxStepNameBytes+1), "201 bytes long, 200 are allowed"},
		"NotUTF8": {"\xff", "UTF-8"},
		"NUL":     {"a\x00b", "NUL"},
		"Undo":    {"undo/a", "the library's"},
	} {
		b.each(name, func(b *bundle) {
			b.wantMisuse(c.says, func(ctx context.Context, op *Op) (string, error) { return Step(ctx, op, c.name, b.inStep) })
			b.wantMisuse(c.says, func(ctx context.Context, op *Op) (string, error) { return StepTx(ctx, op, c.name, b.inTx) })
			b.wantMisuse(c.says, func(ctx context.Context, op *Op) (string, error) { return FinishTx(ctx, op, c.name, b.inTx) }, &DoOpts{StartsWithTx: true})
		})
	}
	b.each("Twice", func(b *bundle) {
		twice := func(second func(ctx context.Context, op *Op) (string, error)) {
			b.Helper()
			calls := 0
			_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
				_, err := Step(ctx, op, "a", func(context.Context, StepContext) (string, error) { calls++; return "", nil })
				if err != nil {
					return "", err
				}
				return second(ctx, op)
			})
			b.wantError(err, ErrOpMisuse)
			if !strings.Contains(err.Error(), `"a" was asked for before`) || calls > 1 {
				b.Errorf("got %v, %d calls", err, calls)
			}
			b.wantState(stateReleased)
		}
		twice(func(ctx context.Context, op *Op) (string, error) { return Step(ctx, op, "a", b.inStep) })
		twice(func(ctx context.Context, op *Op) (string, error) { return StepTx(ctx, op, "a", b.inTx) })
		twice(func(ctx context.Context, op *Op) (string, error) { return FinishTx(ctx, op, "a", b.inTx) })
		twice(func(ctx context.Context, op *Op) (string, error) { // and swallowing the error does not help
			_, _ = Step(ctx, op, "a", b.inStep)
			return "all is well", nil
		})
	})
}

func TestMisuseOptions(t *testing.T) {
	b := setup(t)
	ask := func(context.Context, StepContext) (Reconciled[string], error) { return Reconciled[string]{}, nil }
	retry := func(int, error) (time.Duration, bool) { return 0, false }
	undo := func(context.Context, StepContext, string) error { return nil }
	undoTx := func(context.Context, Tx, string) error { return nil }
	for name, o := range map[string]StepOpts[string]{
		"of AtMostOnce and Reconcile one": {AtMostOnce: true, Reconcile: ask},
		"AtMostOnce leaves nothing":       {AtMostOnce: true, Retry: retry},
		"of Undo and UndoTx one":          {Undo: undo, UndoTx: undoTx},
		"Timeout is -1":                   {Timeout: -1},
	} {
		b.each(name, func(b *bundle) {
			b.wantMisuse(name, func(ctx context.Context, op *Op) (string, error) { return Step(ctx, op, "a", b.inStep, &o) })
		})
	}
	for name, o := range map[string]StepOpts[string]{
		"AtMostOnce": {AtMostOnce: true}, "Reconcile": {Reconcile: ask}, "Retry": {Retry: retry}, "Timeout": {Timeout: time.Second},
	} {
		b.each("StepTx/"+name, func(b *bundle) {
			b.wantMisuse("are for Step", func(ctx context.Context, op *Op) (string, error) { return StepTx(ctx, op, "a", b.inTx, &o) })
		})
	}
	b.each("Several", func(b *bundle) {
		b.wantMisuse("at most one StepOpts", func(ctx context.Context, op *Op) (string, error) { return Step(ctx, op, "a", b.inStep, nil, nil) })
		b.wantMisuse("at most one StepOpts", func(ctx context.Context, op *Op) (string, error) { return StepTx(ctx, op, "a", b.inTx, nil, nil) })
	})
	b.each("NoFunction", func(b *bundle) {
		b.wantMisuse("needs a function", func(ctx context.Context, op *Op) (string, error) { return Step[string](ctx, op, "a", nil) })
		b.wantMisuse("needs a function", func(ctx context.Context, op *Op) (string, error) { return StepTx[string](ctx, op, "a", nil) })
		b.wantMisuse("needs a function", func(ctx context.Context, op *Op) (string, error) { return FinishTx[string](ctx, op, "a", nil) })
	})
	b.each("NoOp", func(b *bundle) {
		_, err := Step(b.Context(), nil, "a", b.inStep)
		_, errTx := StepTx(b.Context(), nil, "a", b.inTx)
		_, errEnd := FinishTx(b.Context(), nil, "a", b.inTx)
		for _, err := range []error{err, errTx, errEnd} {
			if !errors.Is(err, ErrOpMisuse) {
				b.Errorf("got %v", err)
			}
		}
	})
	b.each("Do", func(b *bundle) {
		fn := func(context.Context, *Op) (string, error) { b.Error("it has run"); return "", nil }
		_, errClient := Do(b.Context(), nil, b.key, fn)
		_, errFunction := Do[string](b.Context(), b.client, b.key, nil)
		_, errOpts := Do(b.Context(), b.client, b.key, fn, nil, nil)
		_, errAttempts := Do(b.Context(), b.client, b.key, fn, &DoOpts{MaxAttempts: -1})
		_, errTimeout := Do(b.Context(), b.client, b.key, fn, &DoOpts{Timeout: -1})
		_, errTTL := Do(b.Context(), b.client, b.key, fn, &DoOpts{TTL: -1})
		for _, err := range []error{errClient, errFunction, errOpts, errAttempts, errTimeout, errTTL} {
			b.wantError(err, ErrConfig)
		}
		_, err := Do(b.Context(), b.client, Key{Scope: b.key.Scope}, fn)
		if !errors.Is(err, ErrInvalidKey) {
			b.Errorf("got %v", err)
		}
	})
}

func TestMisuseOfStartsWithTx(t *testing.T) {
	b := setup(t)
	b.wantMisuse("with StartsWithTx that must be a StepTx", func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "a", b.inStep)
	}, &DoOpts{StartsWithTx: true})
	// The last step may be the first one, and there may be none.
	got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return FinishTx(ctx, op, "a", b.effect("finished"))
	}, &DoOpts{StartsWithTx: true})
	b.wantResult(got, err, "finished", false)
	b.wantEffects(1)
	b.each("NoStep", func(b *bundle) {
		fn := func(context.Context, *Op) (string, error) { return "nothing to do", nil }
		got, err := Do(b.Context(), b.client, b.key, fn, &DoOpts{StartsWithTx: true})
		b.wantResult(got, err, "nothing to do", false)
		got, err = Do(b.Context(), b.client, b.key, fn)
		b.wantResult(got, err, "nothing to do", true)
	})
}

// Behind FinishTx everything is settled: what the function still asks for is refused, and what it returns does not count.
func TestMisuseBehindFinishTx(t *testing.T) {
	b := setup(t)
	for name, end := range map[string]func(err error) (string, error){
		"ReturnsTheError": func(err error) (string, error) { return "", err },
		"Definite":        func(error) (string, error) { return "", Permanent(errDeclined) },
		"AnotherValue":    func(error) (string, error) { return "another", nil },
	} {
		b.each(name, func(b *bundle) {
			got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
				if _, err := FinishTx(ctx, op, "end", b.effect("finished")); err != nil {
					return "", err
				}
				_, err := Step(ctx, op, "late", b.inStep)
				_, errTx := StepTx(ctx, op, "later", b.inTx)
				_, errEnd := FinishTx(ctx, op, "latest", b.inTx)
				for _, err := range []error{err, errTx, errEnd} {
					b.wantError(err, ErrOpMisuse)
				}
				return end(err)
			})
			b.wantResult(got, err, "finished", false)
			b.wantState(stateSucceeded)
			b.wantEffects(1)
		})
	}
	b.each("OfAnotherType", func(b *bundle) {
		b.wantMisuse("returns int, but the operation's result is string", func(ctx context.Context, op *Op) (string, error) {
			_, err := FinishTx(ctx, op, "end", func(ctx context.Context, tx Tx) (int, error) {
				_, err := b.inTx(ctx, tx)
				return 0, err
			})
			return "", err
		})
	})
}

// Steps come one after another, in the function's own goroutine, and while it runs.
func TestMisuseOfTime(t *testing.T) {
	b := setup(t)
	b.each("BehindTheFunction", func(b *bundle) {
		var kept *Op
		got, err := Do(b.Context(), b.client, b.key, func(_ context.Context, op *Op) (string, error) {
			kept = op
			return "done", nil
		})
		b.wantResult(got, err, "done", false)
		_, err = Step(b.Context(), kept, "late", b.inStep)
		b.wantError(err, ErrOpMisuse)
		_, err = StepTx(b.Context(), kept, "late", b.inTx)
		b.wantError(err, ErrOpMisuse)
	})
	b.each("InsideAStep", func(b *bundle) {
		b.wantMisuse("not inside each other", func(ctx context.Context, op *Op) (string, error) {
			return StepTx(ctx, op, "a", func(ctx context.Context, tx Tx) (string, error) {
				b.must(b.effect("")(ctx, tx))
				return Step(ctx, op, "b", b.inStep)
			})
		})
	})
	b.each("InsideACall", func(b *bundle) {
		_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "a", func(ctx context.Context, _ StepContext) (string, error) { return StepTx(ctx, op, "b", b.inTx) })
		})
		b.wantError(err, ErrOpMisuse)
		b.wantState(stateReleased)
	})
	b.each("FromAnotherGoroutine", func(b *bundle) {
		got, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "a", func(ctx context.Context, _ StepContext) (string, error) {
				refused := make(chan error)
				go func() {
					_, err := Step(ctx, op, "b", b.inStep)
					refused <- err
				}()
				b.wantError(<-refused, ErrOpMisuse)
				return "alone", nil
			})
		})
		b.wantResult(got, err, "alone", false)
	})
	// The function leaves another goroutine behind in a step: that is cancelled, waited for, and the operation released.
	b.each("ReturnsWhileAStepRuns", func(b *bundle) {
		var cause error
		over := make(chan struct{})
		_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			inStep := make(chan struct{})
			go func() {
				defer close(over)
				_, _ = Step(ctx, op, "a", func(ctx context.Context, _ StepContext) (string, error) {
					close(inStep)
					<-ctx.Done()
					cause = context.Cause(ctx)
					return "", cause
				})
			}()
			<-inStep
			return "done", nil
		})
		b.wantError(err, ErrOpMisuse)
		<-over
		if !errors.Is(cause, ErrOpMisuse) {
			b.Errorf("the step's context ended with %v", cause)
		}
		b.wantState(stateReleased)
	})
}

// awkward cannot be encoded, or cannot be decoded again.
type awkward struct {
	Encode, Decode error `json:"-"`
	Name           string
}

func (u awkward) MarshalText() ([]byte, error) { return []byte(u.Name), u.Encode }

func (u *awkward) UnmarshalText(text []byte) error {
	if string(text) == "unreadable" {
		return errors.New("it cannot be read")
	}
	u.Name = string(text)
	return nil
}

// A result that cannot be saved: a transaction is rolled back, but a call has happened, and must not be repeated.
func TestUnsavableStepResults(t *testing.T) {
	b := setup(t)
	for name, value := range map[string]awkward{"Encode": {Encode: errors.New("it cannot be written")}, "Decode": {Name: "unreadable"}} {
		b.each("StepTx/"+name, func(b *bundle) {
			_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
				_, err := StepTx(ctx, op, "a", func(ctx context.Context, tx Tx) (awkward, error) {
					_, err := b.effect("")(ctx, tx)
					return value, err
				})
				return "", err
			})
			b.wantError(err, ErrResult)
			b.wantEffects(0)
			b.wantState("")
		})
		b.each("Step/"+name, func(b *bundle) {
			calls := 0
			fn := func(ctx context.Context, op *Op) (string, error) {
				_, err := Step(ctx, op, "a", func(context.Context, StepContext) (awkward, error) { calls++; return value, nil })
				return "", err
			}
			_, err := Do(b.Context(), b.client, b.key, fn)
			b.wantError(err, ErrParked)
			if !errors.Is(err, ErrResult) {
				b.Errorf("got %v, want it to say why", err)
			}
			_, err = Do(b.Context(), b.client, b.key, fn)
			b.wantError(err, ErrParked)
			if calls != 1 {
				b.Errorf("%d calls, want 1", calls)
			}
		})
		b.each("FinishTx/"+name, func(b *bundle) {
			_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (awkward, error) {
				return FinishTx(ctx, op, "a", func(ctx context.Context, tx Tx) (awkward, error) {
					_, err := b.effect("")(ctx, tx)
					return value, err
				})
			})
			b.wantError(err, ErrResult)
			b.wantEffects(0)
		})
		b.each("Do/"+name, func(b *bundle) {
			calls := 0
			_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (awkward, error) {
				_, err := Step(ctx, op, "a", func(context.Context, StepContext) (string, error) { calls++; return "", nil })
				return value, err
			})
			b.wantError(err, ErrResult)
			b.wantState(stateReleased)
			if calls != 1 || !slices.Equal(b.recorded(), []string{"a"}) {
				b.Errorf("%d calls, recorded %q", calls, b.recorded())
			}
		})
		b.each("Reconcile/"+name, func(b *bundle) {
			fn := func(ctx context.Context, op *Op) (string, error) {
				_, err := Step(ctx, op, "a", func(context.Context, StepContext) (awkward, error) { return value, Unknown(errors.New("lost")) },
					&StepOpts[awkward]{Timeout: time.Hour, Reconcile: func(context.Context, StepContext) (Reconciled[awkward], error) {
						return Reconciled[awkward]{Outcome: ReconcileDone, Value: value}, nil
					}})
				return "", err
			}
			_, _ = Do(b.Context(), b.client, b.key, fn)
			b.letDeadlinePass()
			_, err := Do(b.Context(), b.client, b.key, fn)
			b.wantError(err, ErrParked)
		})
	}
}
