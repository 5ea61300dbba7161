package pgidem

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// savedBytes is all that is saved under the key: what an eye on the database may see.
func (b *bundle) savedBytes() [][]byte {
	b.Helper()
	rows, err := b.observe().Query(b.Context(), `
		SELECT unnest(ARRAY[result, error, parked]) FROM idempotency_keys WHERE scope = $1 AND id = $2
		UNION ALL SELECT result FROM idempotency_steps WHERE scope = $1 AND id = $2`, b.key.Scope, b.key.ID)
	b.must(rows, err)
	saved, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	b.must(saved, err)
	return saved
}

const secret = "card 4242 4242"

// Results of steps and reasons of parking are sealed as results and failures are.
func TestStepsAreSealed(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.Sealer = new(toySealer) }))
	run := func(b *bundle, end func(ctx context.Context, op *Op) (string, error)) (Result[string], error) {
		return Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			if _, err := StepTx(ctx, op, "tx", func(context.Context, Tx) (string, error) { return secret, nil }); err != nil {
				return "", err
			}
			got, err := Step(ctx, op, "call", func(context.Context, StepContext) (string, error) { return secret, nil },
				&StepOpts[string]{Undo: func(_ context.Context, _ StepContext, result string) error {
					if result != secret {
						b.Errorf("to be taken back: %q", result)
					}
					return nil
				}})
			if err != nil || got != secret {
				return "", errors.Join(err, errors.New("the step returned "+got))
			}
			return end(ctx, op)
		})
	}
	down := errors.New("down")
	for name, c := range map[string]struct {
		end  func(ctx context.Context, op *Op) (string, error)
		kind error
	}{
		"Transient": {func(context.Context, *Op) (string, error) { return "", down }, down},
		"FinishTx": {func(ctx context.Context, op *Op) (string, error) {
			return FinishTx(ctx, op, "end", func(context.Context, Tx) (string, error) { return secret, nil })
		}, nil},
		"Returned": {func(context.Context, *Op) (string, error) { return secret, nil }, nil},
		"Failed":   {func(context.Context, *Op) (string, error) { return "", Permanent(errors.New(secret)) }, nil},
		"Parked": {func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "last", func(context.Context, StepContext) (string, error) { return "", Unknown(errors.New(secret)) })
		}, ErrParked},
	} {
		b.each(name, func(b *bundle) {
			for range 2 { // and once more, from what is saved
				got, err := run(b, c.end)
				f := (*Failure)(nil)
				switch {
				case name == "Failed" && errors.As(err, &f) && f.Message == secret:
				case c.kind != nil && errors.Is(err, c.kind):
				case c.kind == nil && err == nil && got.Value == secret:
				default:
					b.Errorf("got %+v, %v", got, err)
				}
			}
			some := 0
			for _, saved := range b.savedBytes() {
				if some += len(saved); bytes.Contains(saved, []byte("4242")) {
					b.Errorf("readable in the database: %q", saved)
				}
			}
			if some == 0 {
				b.Error("nothing is saved")
			}
		})
	}
}

// What is sealed for one step does not open as another one's, as another key's, or as something else.
func TestSealsOfStepsAreBound(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.Sealer = new(toySealer) }))
	down := errors.New("down")
	run := func(b *bundle) error {
		_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			for _, name := range []string{"a", "b"} {
				if _, err := Step(ctx, op, name, func(context.Context, StepContext) (string, error) { return "of " + name, nil }); err != nil {
					return "", err
				}
			}
			return "", down
		})
		return err
	}
	for name, forge := range map[string]string{
		"FromAnotherStep": "UPDATE idempotency_steps SET result = (SELECT result FROM idempotency_steps WHERE id = $1 AND name = 'b') WHERE id = $1 AND name = 'a' AND $2 <> ''",
		"FromAnotherKey":  "UPDATE idempotency_steps SET result = (SELECT result FROM idempotency_steps WHERE id = $2 AND name = 'a') WHERE id = $1 AND name = 'a'",
	} {
		b.each(name, func(b *bundle) {
			another := *b
			another.key = Key{b.key.Scope, NewID()}
			for _, b := range []*bundle{b, &another} {
				if err := run(b); !errors.Is(err, down) {
					b.Fatal(err)
				}
			}
			b.must(b.observe().Exec(b.Context(), forge, b.key.ID, another.key.ID))
			err := run(b)
			b.wantError(err, ErrResult)
			if !strings.Contains(err.Error(), "sealed for another key or part") {
				b.Errorf("got %v", err)
			}
		})
	}
	b.each("AReasonAsAnother", func(b *bundle) { // one that cannot be opened is parked all the same
		fn := func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "a", func(context.Context, StepContext) (string, error) { return "", Unknown(down) })
		}
		_, err := Do(b.Context(), b.client, b.key, fn)
		b.wantError(err, ErrParked)
		b.must(b.observe().Exec(b.Context(), "UPDATE idempotency_keys SET parked = 'forged' WHERE id = $1", b.key.ID))
		_, err = Do(b.Context(), b.client, b.key, fn)
		b.wantError(err, ErrParked)
		if !errors.Is(err, ErrResult) {
			b.Errorf("got %v, want it to say that the reason cannot be read", err)
		}
		record, err := Lookup[string](b.Context(), b.client, b.key)
		b.wantError(err, ErrResult)
		b.must(nil, b.client.Release(b.Context(), b.key, Decision{Claim: record.Claim, Reason: "nothing was charged", Actor: "ann"}))
	})
}

// A sealer that fails behind a call must not make the call be repeated.
func TestSealerFailsBehindACall(t *testing.T) {
	sealer := new(toySealer)
	b := setup(t, withConfig(func(c *Config) { c.Sealer = sealer }))
	calls := 0
	fn := func(ctx context.Context, op *Op) (string, error) {
		return Step(ctx, op, "a", func(context.Context, StepContext) (string, error) {
			calls++
			sealer.onSeal = func(context.Context) error { return errSealer }
			return "charged", nil
		})
	}
	_, err := Do(b.Context(), b.client, b.key, fn)
	b.wantError(err, ErrParked)
	if !errors.Is(err, errSealer) {
		b.Errorf("got %v, want it to have the sealer's error", err)
	}
	sealer.onSeal = nil
	_, err = Do(b.Context(), b.client, b.key, fn)
	b.wantError(err, ErrParked)
	if calls != 1 {
		b.Errorf("%d calls, want 1", calls)
	}
}

// Finished operations answer from the cache, unfinished ones never.
func TestStepsAndTheCache(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.Cache = NewMemoryCache(1 << 20) }))
	for _, state := range stepsStates {
		b.each(state, func(b *bundle) {
			b.inState(state)()
			client, pool, _ := b.newClient(withConfig(func(c *Config) { c.Cache = b.client.config.Cache }))
			_, _ = Do(b.Context(), b.client, b.key, b.errand().run, &DoOpts{Input: "first"}) // which puts what is finished by now
			before := pool.Stat().AcquireCount()
			got, err := Do(b.Context(), client, b.key, b.errand().run, &DoOpts{Input: "first"})
			asked := pool.Stat().AcquireCount() - before
			switch state {
			case stateParked:
				b.wantError(err, ErrParked)
			case stateUndoing, stateFailed:
				b.wantFailure(err, errDeclined, false)
			default:
				b.wantResult(got, err, errandResult, true)
			}
			if (asked == 0) != (state != stateParked) {
				b.Errorf("the database was asked %d times", asked)
			}
			if state != stateParked {
				_, err = Do(b.Context(), client, b.key, b.errand().run, &DoOpts{Input: "second"})
				b.wantError(err, ErrKeyReused)
			}
		})
	}
}

// wholeText saves text as it is, so that its length is what is saved.
type wholeText struct{}

func (wholeText) Encode(value any) ([]byte, error) { return []byte(value.(string)), nil } //nolint:forcetypeassert // All are.
func (wholeText) Decode(data []byte, value any) error {
	*value.(*string) = string(data) //nolint:forcetypeassert // All are.
	return nil
}

func TestStepResultSizes(t *testing.T) {
	const limit = 64
	b := setup(t, withConfig(func(c *Config) { c.MaxResultBytes, c.Codec = limit, wholeText{} }))
	down := errors.New("down")
	for name, size := range map[string]int{"Empty": 0, "One": 1, "Limit": limit, "Above": limit + 1} {
		text := strings.Repeat("x", size)
		inStep := func(ctx context.Context, _ StepContext) (string, error) { return text, ctx.Err() }
		inTx := func(ctx context.Context, _ Tx) (string, error) { return text, ctx.Err() }
		for step, run := range map[string]func(ctx context.Context, op *Op) (string, error){
			"Step":     func(ctx context.Context, op *Op) (string, error) { return Step(ctx, op, "a", inStep) },
			"StepTx":   func(ctx context.Context, op *Op) (string, error) { return StepTx(ctx, op, "a", inTx) },
			"FinishTx": func(ctx context.Context, op *Op) (string, error) { return FinishTx(ctx, op, "a", inTx) },
			"Do":       func(context.Context, *Op) (string, error) { return text, nil },
		} {
			b.each(name+"/"+step, func(b *bundle) {
				resumed := false
				if step == "Step" || step == "StepTx" { // so that the result is read again
					_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
						if _, err := run(ctx, op); err != nil {
							return "", err
						}
						resumed = true
						return "", down
					})
					if resumed != (size <= limit) {
						b.Fatalf("got %v", err)
					}
				}
				for _, replayed := range []bool{false, true} {
					got, err := Do(b.Context(), b.client, b.key, run)
					switch {
					case size <= limit:
						b.wantResult(got, err, text, replayed)
					case step == "Step":
						b.wantError(err, ErrParked)
					default:
						b.wantError(err, ErrResult)
						b.wantState("")
					}
				}
			})
		}
	}
}
