package pgidem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A recorded result that the new type cannot read stops the operation where it is; the bytes stay for a release that can.
func TestChangedResultType(t *testing.T) {
	b := setup(t)
	r := b.released()
	r.first(r.steps("a"))
	err := r.next(func(ctx context.Context, op *Op) error {
		_, err := Step(ctx, op, "a", func(context.Context, StepContext) (int, error) { b.Error("it ran again"); return 0, nil })
		return err
	})
	b.wantError(err, ErrResult)
	if !strings.Contains(err.Error(), "step a") {
		b.Errorf("got %v, want it to name the step", err)
	}
	b.wantState(stateReleased)
	if err := r.next(r.steps("a")); err != nil {
		b.Error(err)
	}
	r.wantRan()
	// Of the whole operation.
	_, err = Do(b.Context(), b.client, b.key, func(context.Context, *Op) (int, error) { return 0, errors.New("it ran again") })
	b.wantError(err, ErrResult)
}

// What a step is made with does not matter to its record, but only a Step can say what became of a call.
func TestStepBecomesATransaction(t *testing.T) {
	b := setup(t)
	asTx := func(name string) version {
		return func(ctx context.Context, op *Op) error {
			got, err := StepTx(ctx, op, name, func(context.Context, Tx) (string, error) { return "", errors.New("it ran again") })
			if err == nil && got != name+"'s result" {
				err = fmt.Errorf("got %q", got)
			}
			return err
		}
	}
	b.each("Recorded", func(b *bundle) {
		r := b.released()
		r.first(r.steps("a"))
		if err := r.next(asTx("a")); err != nil {
			b.Error(err)
		}
	})
	b.each("Intended", func(b *bundle) {
		c := b.charging(StepOpts[string]{Timeout: time.Hour})
		c.call = doubts["Unknown"]
		_, _ = c.do()
		b.letDeadlinePass()
		r := b.released()
		b.wantError(r.next(asTx("charge")), ErrSteps)
		err := r.next(func(ctx context.Context, op *Op) error {
			_, err := FinishTx(ctx, op, "charge", func(context.Context, Tx) (string, error) { return "", errors.New("it ran again") })
			return err
		})
		b.wantError(err, ErrSteps)
		if !strings.Contains(err.Error(), "only Step can settle it") || b.intents() != 1 {
			b.Errorf("got %v, %d intents", err, b.intents())
		}
	})
}

// Options that a release has taken away since the call was made: what is in doubt stays in doubt.
func TestChangedCallOptions(t *testing.T) {
	b := setup(t)
	for name, opts := range map[string]*StepOpts[string]{"NoReconcile": nil, "AtMostOnce": {AtMostOnce: true}} {
		b.each(name, func(b *bundle) {
			c := b.charging(StepOpts[string]{Timeout: time.Hour})
			c.call = doubts["Unknown"]
			_, _ = c.do()
			b.letDeadlinePass()
			r := b.released()
			b.wantError(r.next(func(ctx context.Context, op *Op) error {
				_, err := r.step(ctx, op, "charge", opts)
				return err
			}), ErrParked)
			r.wantRan()
		})
	}
}
