package pgidem

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// inState brings the key's operation of several steps into a state, and holds it there until the returned function is called.
func (b *bundle) inState(state string) (leave func()) {
	b.Helper()
	down := errors.New("down")
	e := b.errand()
	held := func(place string) func() {
		inPlace, goOn := make(chan struct{}), make(chan struct{})
		e.at[place] = func(context.Context) error {
			close(inPlace)
			<-goOn
			return nil
		}
		first := async(b, func() (Result[string], error) { return e.do(&DoOpts{Input: "first"}) })
		<-inPlace
		return func() {
			close(goOn)
			_, _ = wait(first)
		}
	}
	fails := func(place string, err error) { e.at[place] = func(context.Context) error { return err } }
	leave = func() {}
	switch state {
	case stateRunning:
		leave = held("charge")
	case stateUndoing:
		e.undos = true
		fails("between", Permanent(errDeclined))
		leave = held("undo charge")
	case stateReleased:
		fails("charge", down)
	case stateParked:
		fails("charge", Unknown(down))
	case stateFailed:
		fails("between", Permanent(errDeclined))
	}
	if state != stateRunning && state != stateUndoing {
		_, _ = e.do(&DoOpts{Input: "first"})
	}
	b.wantState(state)
	return leave
}

var stepsStates = []string{stateRunning, stateUndoing, stateReleased, stateParked, stateSucceeded, stateFailed}

// A key keeps its kind: whatever state an operation of several steps is in, the other ways in leave it alone.
func TestOtherWaysIntoAnOperationOfSteps(t *testing.T) {
	b := setup(t)
	other, pool, _ := b.newClient() // so that nobody waits for the operation in memory
	must := func(context.Context, Tx) (string, error) { return "", errors.New("it ran") }
	for _, state := range stepsStates {
		b.each(state, func(b *bundle) {
			leave := b.inState(state)
			defer leave()
			for name, try := range map[string]func() error{
				"DoTx":      func() error { _, err := DoTx(b.Context(), other, b.key, must); return err },
				"DoTxRetry": func() error { _, err := DoTx(b.Context(), other, b.key, must, &TxOpts{Retry: true}); return err },
				"DoBatch": func() error {
					_, err := DoBatch(b.Context(), other, b.key, "r", func(batch *pgx.Batch) {
						batch.Queue("INSERT INTO effects (key) VALUES ($1)", b.key.ID+" by batch")
					})
					return err
				},
				"InTx": func() error {
					return pgx.BeginFunc(b.Context(), pool, func(tx pgx.Tx) error {
						_, err := InTx(b.Context(), other, tx, b.key, func(context.Context) (string, error) { b.Error("it ran"); return "", nil })
						return err
					})
				},
				"MarkTx": func() error {
					return pgx.BeginFunc(b.Context(), pool, func(tx pgx.Tx) error {
						_, err := MarkTx(b.Context(), other, tx, b.key.Scope, []string{b.key.ID})
						return err
					})
				},
				"DoOfAnotherRequest": func() error {
					_, err := Do(b.Context(), other, b.key, b.errand().run, &DoOpts{Input: "second", WaitBound: NoWait})
					return err
				},
			} {
				if err := try(); !errors.Is(err, ErrKeyReused) {
					b.Errorf("%s: got %v, want ErrKeyReused", name, err)
				}
			}
			if n := one[int](b, b.observe(), "SELECT count(*) FROM effects WHERE key = $1 || ' by batch'", b.key.ID); n != 0 {
				b.Error("a batch was committed")
			}
			b.wantState(state)
		})
	}
}

func TestForgetAndLookupOfAnOperationOfSteps(t *testing.T) {
	b := setup(t)
	other, _, _ := b.newClient()
	for _, state := range stepsStates {
		b.each(state, func(b *bundle) {
			leave := b.inState(state)
			defer leave()
			record, err := Lookup[string](b.Context(), other, b.key)
			finished := state == stateSucceeded || state == stateFailed
			failed := state == stateFailed || state == stateUndoing
			if err != nil || record.Kind != kindSteps || record.State != state || record.Attempt != 1 || len(record.Claim) != 36 ||
				(record.Failure != nil) != failed || (record.Parked != nil) != (state == stateParked) ||
				(record.Value == errandResult) != (state == stateSucceeded) || record.Finished.IsZero() == finished {
				b.Errorf("looked up %+v, %v", record, err)
			}
			want := map[string]string{stateSucceeded: "receipt", stateUndoing: "charge", stateFailed: "charge"}[state]
			if want == "" {
				want = "create"
			}
			if record.RecoveryPoint != want {
				b.Errorf("the recovery point is %q, want %q", record.RecoveryPoint, want)
			}
			err = other.Forget(b.Context(), b.key)
			switch {
			case finished && err == nil:
				b.wantState("")
				if names := b.recorded(); len(names) != 0 {
					b.Errorf("steps %q are left", names)
				}
				got, err := b.errand().do()
				b.wantResult(got, err, errandResult, false)
			case finished:
				b.Error(err)
			case state == stateParked:
				b.wantError(err, ErrParked)
			default:
				b.wantError(err, ErrInProgress)
			}
		})
	}
}

// The other way round: what is of another kind is no operation of several steps.
func TestDoOnKeysOfOtherKinds(t *testing.T) {
	b := setup(t)
	for name, use := range map[string]func(b *bundle) error{
		"DoTx":       func(b *bundle) error { _, err := DoTx(b.Context(), b.client, b.key, b.effect("")); return err },
		"DoTxFailed": func(b *bundle) error { _, _ = DoTx(b.Context(), b.client, b.key, failForGood); return nil },
		"DoBatch": func(b *bundle) error {
			_, err := DoBatch(b.Context(), b.client, b.key, "", func(*pgx.Batch) {})
			return err
		},
		"MarkTx": func(b *bundle) error {
			return pgx.BeginFunc(b.Context(), b.pool, func(tx pgx.Tx) error {
				_, err := MarkTx(b.Context(), b.client, tx, b.key.Scope, []string{b.key.ID})
				return err
			})
		},
	} {
		b.each(name, func(b *bundle) {
			if err := use(b); err != nil {
				b.Fatal(err)
			}
			for _, opts := range []*DoOpts{nil, {StartsWithTx: true}, {Retry: true}} {
				e := b.errand()
				_, err := e.do(opts)
				b.wantError(err, ErrKeyReused)
				e.wantRan(map[string]int{})
			}
		})
	}
}

func failForGood(context.Context, Tx) (string, error) { return "", Permanent(errDeclined) }

func TestDoFingerprint(t *testing.T) {
	b := setup(t)
	e := b.errand()
	down := errors.New("down")
	e.at["charge"] = func(context.Context) error { return down }
	if _, err := e.do(&DoOpts{Input: "ride to town"}); !errors.Is(err, down) {
		b.Fatal(err)
	}
	delete(e.at, "charge")
	for _, opts := range []*DoOpts{{Input: "ride home"}, {Input: "ride home", StartsWithTx: true}} {
		_, err := e.do(opts)
		b.wantError(err, ErrKeyReused)
	}
	got, err := e.do(&DoOpts{Input: "ride to town"})
	b.wantResult(got, err, errandResult, false)
	for _, opts := range []*DoOpts{{Input: "ride home"}, {Input: "ride home", Retry: true}} {
		_, err = e.do(opts)
		b.wantError(err, ErrKeyReused)
	}
	e.wantRan(map[string]int{"begin": 2, "create": 1, "charge": 2, "between": 1, "receipt": 1})
}

// From inside an operation its own key is refused, and every other one works.
func TestDoNested(t *testing.T) {
	b := setup(t)
	type call = func(ctx context.Context, b *bundle, key Key) error
	calls := map[string]call{
		"Do": func(ctx context.Context, b *bundle, key Key) error {
			_, err := Do(ctx, b.client, key, func(context.Context, *Op) (string, error) { return "inner", nil })
			return err
		},
		"DoTx": func(ctx context.Context, b *bundle, key Key) error {
			_, err := DoTx(ctx, b.client, key, func(context.Context, Tx) (string, error) { return "inner", nil })
			return err
		},
		"Forget": func(ctx context.Context, b *bundle, key Key) error {
			if err := b.client.Forget(ctx, key); !errors.Is(err, ErrNotFound) {
				return err
			}
			return nil
		},
	}
	for name, inner := range calls {
		for _, place := range errandPlaces {
			b.each(name+"/"+place, func(b *bundle) {
				e := b.errand()
				another := Key{b.key.Scope, NewID()}
				e.at[place] = func(ctx context.Context) error {
					b.wantError(inner(ctx, b, b.key), ErrNested)
					return inner(ctx, b, another)
				}
				got, err := e.do(&DoOpts{StartsWithTx: place != "begin"})
				b.wantResult(got, err, errandResult, false)
				if _, err := Lookup[string](b.Context(), b.client, another); (err == nil) != (name != "Forget") {
					b.Errorf("the inner operation: %v", err)
				}
			})
		}
	}
	b.each("Decision", func(b *bundle) {
		e := b.errand()
		e.at["charge"] = func(ctx context.Context) error {
			b.wantError(b.client.Resume(ctx, b.key, Decision{Claim: NewID(), Reason: "r", Actor: "a"}), ErrNested)
			return nil
		}
		got, err := e.do()
		b.wantResult(got, err, errandResult, false)
	})
	b.each("InTxOfAStep", func(b *bundle) {
		another := Key{b.key.Scope, NewID()}
		down := errors.New("down")
		fn := func(fail error) func(ctx context.Context, op *Op) (string, error) {
			return func(ctx context.Context, op *Op) (string, error) {
				return FinishTx(ctx, op, "end", func(ctx context.Context, tx Tx) (string, error) {
					got, err := InTx(ctx, b.client, tx, another, func(context.Context) (string, error) { return "inner", nil })
					return got.Value, errors.Join(err, fail)
				})
			}
		}
		if _, err := Do(b.Context(), b.client, b.key, fn(down)); !errors.Is(err, down) {
			b.Fatal(err)
		}
		if _, err := Lookup[string](b.Context(), b.client, another); !errors.Is(err, ErrNotFound) {
			b.Errorf("the step was rolled back, but what it did in its transaction was not: %v", err)
		}
		got, err := Do(b.Context(), b.client, b.key, fn(nil))
		b.wantResult(got, err, "inner", false)
		b.must(Lookup[string](b.Context(), b.client, another))
	})
}

// One that waits gets what the owner saves, or runs when the owner gives up; in one process in memory, from another one by asking.
func TestDoWaiters(t *testing.T) {
	b := setup(t)
	other, _, _ := b.newClient()
	down := errors.New("down")
	for name, client := range map[string]*Client{"SameProcess": b.client, "AnotherProcess": other} {
		for how, end := range map[string]error{"Success": nil, "Definite": Permanent(errDeclined), "Transient": down} {
			b.each(name+"/"+how, func(b *bundle) {
				e := b.errand()
				inCall, goOn := make(chan struct{}), make(chan struct{})
				e.at["charge"] = func(context.Context) error {
					close(inCall)
					<-goOn
					return end
				}
				first := async(b, func() (Result[string], error) { return e.do() })
				<-inCall
				_, err := Do(b.Context(), client, b.key, e.run, &DoOpts{WaitBound: NoWait})
				b.wantError(err, ErrInProgress)
				second := b.errand()
				waiting := async(b, func() (Result[string], error) {
					return Do(b.Context(), client, b.key, second.run, &DoOpts{WaitBound: time.Minute})
				})
				close(goOn)
				_, err = wait(first)
				if end == nil && err != nil || end != nil && !errors.Is(err, errors.Unwrap(end)) && !errors.Is(err, end) {
					b.Errorf("the first got %v", err)
				}
				got, err := wait(waiting)
				switch how {
				case "Success":
					b.wantResult(got, err, errandResult, true)
				case "Definite":
					b.wantFailure(err, errDeclined, false)
				default:
					b.wantResult(got, err, errandResult, false)
				}
				if how != "Transient" && len(second.ran) != 0 {
					b.Errorf("the one that waited has run %v", second.ran)
				}
			})
		}
	}
}
