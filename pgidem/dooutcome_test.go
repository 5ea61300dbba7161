package pgidem

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// errand is an operation of tx, call, tx in which a test does what it wants at each place: before the first step (begin), in the
// steps (create, charge, receipt), and between them (between). It counts what ran, and remembers what was taken back.
type errand struct {
	b      *bundle
	at     map[string]func(ctx context.Context) error
	ran    map[string]int
	keys   []string
	undos  bool // the steps can be taken back
	undone []string
}

var errandPlaces = []string{"begin", "create", "charge", "between", "receipt"}

const errandResult = "created, charged, receipt"

func (b *bundle) errand() *errand {
	return &errand{b: b, at: map[string]func(context.Context) error{}, ran: map[string]int{}}
}

func (e *errand) reach(ctx context.Context, place string) error {
	e.ran[place]++
	if do := e.at[place]; do != nil {
		return do(ctx)
	}
	return nil
}

func (e *errand) run(ctx context.Context, op *Op) (string, error) {
	if err := e.reach(ctx, "begin"); err != nil {
		return "", err
	}
	created, err := StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
		if _, err := e.b.effect("")(ctx, tx); err != nil {
			return "", err
		}
		return "created", e.reach(ctx, "create")
	}, e.undoTx())
	if err != nil {
		return "", err
	}
	charged, err := Step(ctx, op, "charge", func(ctx context.Context, s StepContext) (string, error) {
		e.keys = append(e.keys, s.Key())
		return "charged", e.reach(ctx, "charge")
	}, e.undo())
	if err != nil {
		return "", err
	}
	if err := e.reach(ctx, "between"); err != nil {
		return "", err
	}
	return FinishTx(ctx, op, "receipt", func(ctx context.Context, tx Tx) (string, error) {
		if _, err := e.b.effect("")(ctx, tx); err != nil {
			return "", err
		}
		return created + ", " + charged + ", receipt", e.reach(ctx, "receipt")
	})
}

func (e *errand) undoTx() *StepOpts[string] {
	if !e.undos {
		return nil
	}
	return &StepOpts[string]{UndoTx: func(ctx context.Context, tx Tx, result string) error {
		e.undone = append(e.undone, result)
		if _, err := tx.Exec(ctx, "DELETE FROM effects WHERE key = $1", e.b.key.ID); err != nil {
			return err
		}
		return e.reach(ctx, "undo create")
	}}
}

func (e *errand) undo() *StepOpts[string] {
	if !e.undos {
		return nil
	}
	return &StepOpts[string]{Undo: func(ctx context.Context, s StepContext, result string) error {
		e.undone = append(e.undone, result)
		e.keys = append(e.keys, s.Key())
		return e.reach(ctx, "undo charge")
	}}
}

func (e *errand) do(opts ...*DoOpts) (Result[string], error) {
	return Do(e.b.Context(), e.b.client, e.b.key, e.run, opts...)
}

// wantRan checks how often which place was reached; what is not named must not have been.
func (e *errand) wantRan(want map[string]int) {
	e.b.Helper()
	if !maps.Equal(e.ran, want) {
		e.b.Errorf("the places were reached %v times, want %v", e.ran, want)
	}
}

// each runs a scenario with a key of its own. Those of a test share its database and its client.
func (b *bundle) each(name string, scenario func(b *bundle)) {
	b.T.Run(name, func(t *testing.T) {
		t.Helper()
		sub := *b
		sub.T, sub.key = t, Key{b.key.Scope, NewID()}
		scenario(&sub)
	})
}

// starts are the two ways in which an operation of several steps begins.
var starts = map[string]*DoOpts{"Plain": nil, "StartsWithTx": {StartsWithTx: true}}

// before is what is recorded when a place is reached: the recovery point, and the effects that are committed.
func before(place string) (point string, effects int) {
	switch place {
	case "begin", "create":
		return "", 0
	case "charge":
		return "create", 1
	default:
		return "charge", 1
	}
}

func TestDoTransientErrorAtEachPlace(t *testing.T) {
	b := setup(t)
	for name, opts := range starts {
		for _, place := range errandPlaces {
			b.each(name+"/"+place, func(b *bundle) {
				down := errors.New("not now")
				e := b.errand()
				e.at[place] = func(context.Context) error { return down }
				if _, err := e.do(opts); err != down {
					b.Fatalf("got %v, want the error as it is", err)
				}
				point, effects := before(place)
				b.wantEffects(effects)
				b.wantState(map[bool]string{true: "", false: stateReleased}[point == ""])
				delete(e.at, place)
				got, err := e.do(opts)
				b.wantResult(got, err, errandResult, false)
				if got.ResumedAfter != point {
					b.Errorf("resumed after %q, want %q", got.ResumedAfter, point)
				}
				want := map[string]int{"begin": 2, "create": 1, "charge": 1, "between": 1, "receipt": 1}
				want[place] = 2
				if place == "receipt" {
					want["between"] = 2 // which is recorded nowhere
				}
				e.wantRan(want)
				b.wantEffects(2)
			})
		}
	}
}

func TestDoPermanentAtEachPlace(t *testing.T) {
	b := setup(t)
	other, _, _ := b.newClient()
	for name, opts := range starts {
		for _, undos := range []bool{false, true} {
			for _, place := range errandPlaces {
				b.each(name+map[bool]string{true: "Undos"}[undos]+"/"+place, func(b *bundle) {
					declined := &Failure{Code: "declined", Message: "no", Details: map[string]string{"at": place}}
					e := b.errand()
					e.undos = undos
					e.at[place] = func(context.Context) error { return Permanent(declined) }
					got, err := e.do(opts)
					b.wantFailure(err, declined, true)
					if got.Replayed || got.Attempt != 1 {
						b.Errorf("got %+v", got)
					}
					point, effects := before(place)
					var want []string
					switch {
					case !undos:
					case point == "charge":
						want, effects = []string{"charged", "created"}, 0
					case point == "create":
						want, effects = []string{"created"}, 0
					}
					if !slices.Equal(e.undone, want) {
						b.Errorf("%q was taken back, want %q", e.undone, want)
					}
					b.wantEffects(effects)
					b.wantState(stateFailed)
					ran := maps.Clone(e.ran)
					for _, c := range []*Client{b.client, other} {
						got, err := Do(b.Context(), c, b.key, e.run, opts)
						b.wantFailure(err, declined, false)
						if !got.Replayed {
							b.Errorf("got %+v, want a replay", got)
						}
					}
					e.wantRan(ran)
				})
			}
		}
	}
}

// wantFailure checks a failure and whether it has its cause, which only the caller that ran the operation gets.
func (b *bundle) wantFailure(err error, want *Failure, caused bool) {
	b.Helper()
	var f *Failure
	if !errors.As(err, &f) {
		b.Fatalf("got %v, want a failure", err)
	}
	if f.Code != want.Code || f.Message != want.Message || !maps.Equal(f.Details, want.Details) || (f.Unwrap() != nil) != caused {
		b.Errorf("got %+v, want %+v, with its cause %v", f, want, caused)
	}
}

// Unknown is for calls. In a transaction, and outside of the steps, nothing is in doubt: the operation is released.
func TestDoUnknown(t *testing.T) {
	b := setup(t)
	lost := errors.New("no answer")
	for _, place := range errandPlaces {
		b.each(place, func(b *bundle) {
			e := b.errand()
			e.at[place] = func(context.Context) error { return Unknown(lost) }
			_, err := e.do()
			if !errors.Is(err, lost) {
				b.Errorf("got %v, want it to have the cause", err)
			}
			delete(e.at, place)
			if place != "charge" {
				if errors.Is(err, ErrParked) {
					b.Errorf("got %v", err)
				}
				got, err := e.do()
				b.wantResult(got, err, errandResult, false)
				return
			}
			b.wantError(err, ErrParked)
			b.wantState(stateParked)
			for range 2 {
				_, err := e.do()
				b.wantError(err, ErrParked)
				if !strings.Contains(err.Error(), "charge") || errors.Is(err, lost) {
					b.Errorf("got %v, want it to name the step", err)
				}
			}
			e.wantRan(map[string]int{"begin": 1, "create": 1, "charge": 1})
			if Unknown(nil) != nil {
				b.Error("Unknown(nil) is an error")
			}
		})
	}
}

// leaves are the ways to leave a function without returning.
var leaves = map[string]func(context.Context) error{
	"Panic":  func(context.Context) error { panic("on purpose") },
	"Goexit": func(context.Context) error { runtime.Goexit(); return nil },
}

func TestDoPanicAndGoexitAtEachPlace(t *testing.T) {
	b := setup(t)
	for name, opts := range starts {
		for how, leave := range leaves {
			for _, place := range errandPlaces {
				b.each(name+how+"/"+place, func(b *bundle) {
					e := b.errand()
					e.at[place] = leave
					var panicked any
					done := make(chan struct{})
					go func() {
						defer close(done)
						defer func() { panicked = recover() }()
						_, _ = e.do(opts)
						b.Error("Do has returned")
					}()
					<-done
					if (how == "Panic") != (panicked == "on purpose") {
						b.Errorf("recovered %v", panicked)
					}
					point, effects := before(place)
					b.wantEffects(effects)
					b.wantState(map[bool]string{true: "", false: stateReleased}[point == ""])
					delete(e.at, place)
					got, err := e.do(opts)
					b.wantResult(got, err, errandResult, false)
					b.wantEffects(2)
				})
			}
		}
	}
}

func TestDoContextCancelledAtEachPlace(t *testing.T) {
	b := setup(t)
	gone := errors.New("the caller has gone")
	for name, opts := range starts {
		b.each(name+"/before", func(b *bundle) {
			ctx, cancel := context.WithCancelCause(b.Context())
			cancel(gone)
			e := b.errand()
			if _, err := Do(ctx, b.client, b.key, e.run, opts); !errors.Is(err, gone) {
				b.Errorf("got %v, want the cause", err)
			}
			b.wantState("")
			e.wantRan(map[string]int{})
		})
		for _, place := range errandPlaces {
			b.each(name+"/"+place, func(b *bundle) {
				ctx, cancel := context.WithCancelCause(b.Context())
				defer cancel(nil)
				e := b.errand()
				e.at[place] = func(context.Context) error { cancel(gone); return nil }
				got, err := Do(ctx, b.client, b.key, e.run, opts)
				if place == "receipt" { // what a function has returned without an error is saved
					b.wantResult(got, err, errandResult, false)
					return
				}
				if !errors.Is(err, gone) {
					b.Fatalf("got %v, want the cause", err)
				}
				b.wantState(map[bool]string{true: "", false: stateReleased}[place == "begin"])
				delete(e.at, place)
				got, err = e.do(opts)
				b.wantResult(got, err, errandResult, false)
				if e.ran["create"] != 1 || e.ran["charge"] != 1 || e.ran["receipt"] != 1 {
					b.Errorf("what was recorded when the context ended was repeated: %v", e.ran)
				}
				b.wantEffects(2)
			})
		}
	}
}

func TestDoTimeouts(t *testing.T) {
	b := setup(t)
	ends := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	for _, place := range errandPlaces {
		b.each("Do/"+place, func(b *bundle) {
			e := b.errand()
			e.at[place] = ends
			_, err := e.do(&DoOpts{Timeout: 50 * time.Millisecond})
			if !errors.Is(err, context.DeadlineExceeded) {
				b.Fatalf("got %v, want DeadlineExceeded", err)
			}
			delete(e.at, place)
			got, err := e.do()
			b.wantResult(got, err, errandResult, false)
			b.wantEffects(2)
		})
	}
	b.each("Step", func(b *bundle) {
		calls := 0
		fn := func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "charge", func(ctx context.Context, _ StepContext) (string, error) {
				if calls++; calls > 1 {
					return "charged", nil
				}
				return "", ends(ctx)
			}, &StepOpts[string]{Timeout: time.Millisecond, Retry: func(_ int, err error) (time.Duration, bool) {
				return 0, errors.Is(err, context.DeadlineExceeded)
			}})
		}
		got, err := Do(b.Context(), b.client, b.key, fn)
		b.wantResult(got, err, "charged", false)
		if calls != 2 {
			b.Errorf("%d calls, want 2: the second has a time limit of its own", calls)
		}
	})
}

func TestStepRetry(t *testing.T) {
	b := setup(t)
	down := errors.New("down")
	type try struct {
		n   int
		err error
	}
	run := func(b *bundle, ctx context.Context, call func() error, retry func(int, error) (time.Duration, bool)) error {
		_, err := Do(ctx, b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			return Step(ctx, op, "charge", func(context.Context, StepContext) (string, error) { return "charged", call() },
				&StepOpts[string]{Retry: retry})
		})
		return err
	}
	b.each("UntilItGivesUp", func(b *bundle) {
		var tries []try
		err := run(b, b.Context(), func() error { return down }, func(n int, err error) (time.Duration, bool) {
			tries = append(tries, try{n, err})
			return time.Microsecond, n < 3
		})
		if !errors.Is(err, down) || !slices.Equal(tries, []try{{1, down}, {2, down}, {3, down}}) {
			b.Errorf("got %v after %v", err, tries)
		}
	})
	b.each("DefiniteIsFinal", func(b *bundle) {
		calls := 0
		err := run(b, b.Context(), func() error { calls++; return Permanent(down) }, func(int, error) (time.Duration, bool) { return 0, true })
		b.wantFailure(err, &Failure{Message: "down"}, true)
		if calls != 1 {
			b.Errorf("%d calls, want 1", calls)
		}
	})
	b.each("UnknownIsNotRepeated", func(b *bundle) {
		calls := 0
		err := run(b, b.Context(), func() error { calls++; return Unknown(down) }, func(int, error) (time.Duration, bool) { return 0, true })
		b.wantError(err, ErrParked)
		if calls != 1 {
			b.Errorf("%d calls, want 1", calls)
		}
	})
	b.each("TheContextEndsTheWait", func(b *bundle) {
		gone := errors.New("the caller has gone")
		ctx, cancel := context.WithCancelCause(b.Context())
		err := run(b, ctx, func() error { return down }, func(int, error) (time.Duration, bool) {
			cancel(gone)
			return time.Hour, true
		})
		if !errors.Is(err, gone) {
			b.Errorf("got %v, want the cause", err)
		}
	})
}

// An operation that is claimed again and again is stopped: each attempt may cost somebody something.
func TestDoAttemptsAreLimited(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.MaxAttempts = 3 }))
	for name, of := range map[string]struct {
		opts *DoOpts
		max  int
	}{"ByConfig": {nil, 3}, "ByCall": {&DoOpts{MaxAttempts: 1}, 1}} {
		b.each(name, func(b *bundle) {
			down := errors.New("down")
			e := b.errand()
			e.at["charge"] = func(context.Context) error { return down }
			for range of.max {
				if _, err := e.do(of.opts); !errors.Is(err, down) {
					b.Fatalf("got %v, want the step's error", err)
				}
			}
			for range 2 {
				_, err := e.do(of.opts)
				b.wantError(err, ErrParked)
			}
			if e.ran["charge"] != of.max {
				b.Errorf("%d calls, want %d", e.ran["charge"], of.max)
			}
			record, err := Lookup[string](b.Context(), b.client, b.key)
			if err != nil || record.State != stateParked || record.Parked == nil || record.Parked.Code != "attempts" ||
				record.Failure != nil || record.Attempt != of.max || record.RecoveryPoint != "create" {
				b.Errorf("looked up %+v, %v", record, err)
			}
		})
	}
}

// A key whose result has expired begins a new life: nothing of the old one is left in it.
func TestDoExpiry(t *testing.T) {
	b := setup(t)
	for name, opts := range starts {
		b.each(name, func(b *bundle) {
			e := b.errand()
			short := DoOpts{TTL: time.Millisecond}
			if opts != nil {
				short.StartsWithTx = opts.StartsWithTx
			}
			b.must(e.do(&short))
			b.until("it has expired", "SELECT expires_at < clock_timestamp() FROM idempotency_keys WHERE id = $1", b.key.ID)
			record, err := Lookup[string](b.Context(), b.client, b.key)
			if err != nil || !record.Expired || record.Value != errandResult {
				b.Errorf("looked up %+v, %v", record, err)
			}
			down := errors.New("down")
			e.at["charge"] = func(context.Context) error { return down }
			if _, err := e.do(opts); !errors.Is(err, down) {
				b.Fatalf("got %v", err)
			}
			if names := b.recorded(); !slices.Equal(names, []string{"create"}) {
				b.Errorf("recorded in the new life: %q, want create alone", names)
			}
			delete(e.at, "charge")
			got, err := e.do(opts)
			b.wantResult(got, err, errandResult, false)
			e.wantRan(map[string]int{"begin": 3, "create": 2, "charge": 3, "between": 2, "receipt": 2})
			if len(e.keys) != 3 || e.keys[0] == e.keys[1] || e.keys[1] != e.keys[2] {
				b.Errorf("downstream keys %q, want another one in the new life", e.keys)
			}
			b.wantEffects(4)
		})
	}
}

// recorded are the names of the key's recorded steps, in their order.
func (b *bundle) recorded() []string {
	b.Helper()
	rows, err := b.observe().Query(b.Context(),
		"SELECT name FROM idempotency_steps WHERE scope = $1 AND id = $2 AND recorded_at IS NOT NULL ORDER BY ordinal", b.key.Scope, b.key.ID)
	b.must(rows, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	b.must(names, err)
	return names
}
