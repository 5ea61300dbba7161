package pgidem

import (
	"context"
	"errors"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
)

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
