package pgidem

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// rodeOnce is how often the bodies of a ride run that nothing disturbs.
func rodeOnce() map[string]int { return map[string]int{"create": 1, "charge": 1, "receipt": 1} }

// over is a context that has ended: Close waits no longer for functions than it takes to cancel them.
func (b *bundle) over() context.Context {
	ctx, cancel := context.WithCancelCause(b.Context())
	cancel(errOver)
	return ctx
}

var errOver = errors.New("the deploy does not wait")

// wantLiveness counts the instance locks in the test's database.
func (b *bundle) wantLiveness(want int) {
	b.Helper()
	b.until(fmt.Sprintf("%d instance locks", want), `SELECT count(*) = $1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, want)
}

// Close refuses new operations and waits for the one that runs, which goes on to its last step; the liveness connection goes behind it.
func TestDoCloseWaits(t *testing.T) {
	b := setup(t)
	here := b.journey("here")
	inCall := newHalt()
	defer inCall.open()
	here.at = inCall.at("charge ends")
	running := async(b, func() (Result[string], error) { return here.do(b.Context(), b.client, "ride") })
	<-inCall.reached
	closed := make(chan error, 1)
	go func() { closed <- b.client.Close(b.Context()) }()
	late := &journey{key: Key{"late", NewID()}, who: "late", book: here.book}
	for {
		_, err := Do(b.Context(), b.client, late.key, func(context.Context, *Op) (string, error) { return "early", nil })
		if errors.Is(err, ErrClosed) { // Close has been noticed
			break
		}
		b.must(nil, err)
		runtime.Gosched()
	}
	if _, err := late.do(b.Context(), b.client, "ride"); !errors.Is(err, ErrClosed) {
		b.Errorf("got %v, want %v", err, ErrClosed)
	}
	select {
	case err := <-closed:
		b.Errorf("Close returned %v while an operation ran", err)
	default:
	}
	b.wantLiveness(1)
	inCall.open()
	b.must(nil, <-closed)
	b.wantLiveness(0)
	a := answered(b, running)
	b.wantResult(a.Result, a.err, rideResult, false)
	here.want(b, rodeOnce(), "create", "receipt")
	late.want(b, map[string]int{})
	b.wantAllGone(b.client)
}

// Close that does not wait cancels the function with its cause; what the call has answered is recorded, then the operation is released, and
// then the liveness connection is closed: while the release is under way, nobody can take the operation for a dead one's.
func TestDoCloseCancelsAndReleases(t *testing.T) {
	b := setup(t)
	here := b.journey("here")
	inCall := make(chan struct{})
	var cause error
	running := async(b, func() (Result[string], error) {
		return Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
			here.at = func(place string) {
				if place == "charge ends" {
					close(inCall)
					<-ctx.Done()
					cause = context.Cause(ctx)
				}
			}
			return here.ride(ctx, op)
		})
	})
	<-inCall
	release := b.faults.Hold(faultconn.Point{SQL: "OperationRelease"})
	closed := make(chan error, 1)
	go func() { closed <- b.client.Close(b.over()) }()
	b.reached(release)
	other, _, _ := b.newClient()
	_, err := Do(b.Context(), other, b.key, here.ride, &DoOpts{WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	if point := one[string](b, here.book, "SELECT recovery_point FROM idempotency_keys WHERE id = $1", b.key.ID); point != "charge" {
		b.Errorf("the recovery point is %q, want charge", point)
	}
	release.Release()
	if err := <-closed; err != nil && !errors.Is(err, errOver) {
		b.Errorf("Close returned %v, want its context's cause or nothing", err)
	}
	a := answered(b, running)
	b.wantError(a.err, ErrClosed)
	if !errors.Is(cause, ErrClosed) {
		b.Errorf("the call's context ended because of %v, want %v", cause, ErrClosed)
	}
	b.must(nil, b.client.Close(b.Context()))
	b.wantState(stateReleased)
	here.at = nil
	got, err := here.do(b.Context(), other, "ride")
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 2 || got.ResumedAfter != "charge" {
		b.Errorf("attempt %d, resumed after %q; want 2, charge", got.Attempt, got.ResumedAfter)
	}
	here.want(b, rodeOnce(), "create", "receipt")
	b.wantAllGone(b.client, other)
}

// What a call has answered is on its way to the database when Close stops waiting, and does not come through at first. It is recorded all the
// same before the liveness connection goes, and nobody calls again.
func TestDoCloseLosesNoAnswer(t *testing.T) {
	for name, c := range map[string]struct {
		when faultconn.When
		cut  bool
	}{
		"Slow":       {when: faultconn.Before},
		"NotSent":    {when: faultconn.Before, cut: true},
		"AnswerLost": {when: faultconn.After, cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			here := b.journey("here")
			inCall := newHalt()
			defer inCall.open()
			here.at = inCall.at("charge ends")
			running := async(b, func() (Result[string], error) { return here.do(b.Context(), b.client, "ride") })
			<-inCall.reached
			checkpoint := b.faults.Hold(faultconn.Point{SQL: "StepRecord", When: c.when})
			inCall.open()
			b.reached(checkpoint)
			closed := make(chan error, 1)
			go func() { closed <- b.client.Close(b.over()) }()
			<-b.client.stop.Done()
			if c.cut {
				checkpoint.Cut()
			} else {
				checkpoint.Release()
			}
			if err := <-closed; err != nil && !errors.Is(err, errOver) {
				b.Errorf("Close returned %v, want its context's cause or nothing", err)
			}
			a := answered(b, running)
			b.wantError(a.err, ErrClosed)
			b.must(nil, b.client.Close(b.Context()))
			b.wantState(stateReleased)
			other, _, _ := b.newClient()
			got, err := here.onward().do(b.Context(), other, "ride")
			b.wantResult(got, err, rideResult, false)
			if got.ResumedAfter != "charge" {
				b.Errorf("resumed after %q, want charge", got.ResumedAfter)
			}
			here.want(b, rodeOnce(), "create", "receipt")
			b.wantAllGone(b.client, other)
		})
	}
}

// onward is the same journey, which stops nowhere.
func (t *journey) onward() *journey { return &journey{key: t.key, who: t.who, book: t.book} }

// A function that does not listen to its context outlasts Close, which says so; the liveness connection stays as long as the function, so
// that nobody runs the operation beside it, and what it does until it ends is recorded.
func TestDoCloseLeavesTheDeafAlone(t *testing.T) {
	b := setup(t)
	here := b.journey("here")
	inCall := newHalt()
	defer inCall.open()
	here.at = inCall.at("charge ends")
	running := async(b, func() (Result[string], error) { return here.do(b.Context(), b.client, "ride") })
	<-inCall.reached
	if err := b.client.Close(b.over()); !errors.Is(err, errOver) {
		b.Errorf("Close returned %v, want its context's cause", err)
	}
	b.wantLiveness(1)
	other, _, _ := b.newClient()
	_, err := Do(b.Context(), other, b.key, here.ride, &DoOpts{WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	inCall.open()
	a := answered(b, running)
	b.wantError(a.err, ErrClosed)
	b.must(nil, b.client.Close(b.Context()))
	b.wantState(stateReleased)
	got, err := here.onward().do(b.Context(), other, "ride")
	b.wantResult(got, err, rideResult, false)
	here.want(b, rodeOnce(), "create", "receipt")
	b.wantAllGone(b.client, other)
}
