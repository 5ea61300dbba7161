package pgidem

import (
	"context"
	"errors"
	"runtime"
	"testing"
)

func TestCloseRefusesAndWaits(t *testing.T) {
	b := setup(t)
	inFn, goOn := make(chan struct{}), make(chan struct{})
	running := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
			close(inFn)
			<-goOn
			return b.effect("done")(ctx, tx)
		})
	})
	<-inFn
	closed := make(chan error)
	go func() { closed <- b.client.Close(b.Context()) }()
	for { // until Close has been noticed
		_, end, err := b.client.begin(b.Context())
		if err != nil {
			break
		}
		end()
	}
	for name, err := range map[string]error{
		"DoTx":   second(DoTx(b.Context(), b.client, b.key, b.effect("never"))),
		"Lookup": second(Lookup[string](b.Context(), b.client, b.key)),
		"Forget": b.client.Forget(b.Context(), b.key),
		"Probe":  second(b.client.Probe(b.Context())),
	} {
		if !errors.Is(err, ErrClosed) {
			b.Errorf("%s: got %v, want %v", name, err, ErrClosed)
		}
	}
	select {
	case err := <-closed:
		b.Errorf("Close returned %v while an operation ran", err)
	default:
	}
	close(goOn)
	b.must(nil, <-closed)
	a := <-running
	b.wantResult(a.Result, a.err, "done", false)
	b.must(nil, b.client.Close(b.Context())) // again
}

// An operation that Close waits for gets what it needs of the client.
func TestCloseLetsNestedCallsIn(t *testing.T) {
	b := setup(t)
	closed := make(chan error, 1)
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, _ Tx) (string, error) {
		go func() { closed <- b.client.Close(b.Context()) }()
		for !errors.Is(second(Lookup[string](b.Context(), b.client, Key{"s", "none"})), ErrClosed) {
			runtime.Gosched() // until Close has been noticed
		}
		inner, err := DoTx(ctx, b.client, Key{"s", "inner"}, b.effect("inner"))
		return inner.Value, err
	})
	b.wantResult(got, err, "inner", false)
	b.must(nil, <-closed)
}

// An operation that has ended lets nobody into a closed client any more, not even from inside another client's that
// outlives it: nobody waits for that call, and its end would be counted below none.
func TestEndedOperationLetsNobodyIn(t *testing.T) {
	t.Parallel()
	closed, other := new(Client), new(Client)
	outer := &heldKey{client: closed, key: Key{"s", "outer"}}
	inner := &heldKey{client: other, key: Key{"s", "inner"}, outer: outer}
	if !inner.of(closed) {
		t.Error("an operation that still runs is not recognised")
	}
	outer.ended.Store(true)
	if inner.of(closed) || !inner.of(other) {
		t.Error("an operation that has ended still counts, or one that runs does not")
	}
}

// Close does not wait for ever: functions that outlast its context see why theirs ends.
func TestCloseCancelsWhatOutlastsIt(t *testing.T) {
	b := setup(t)
	inFn := make(chan struct{})
	running := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
			_, err := b.effect("")(ctx, tx)
			close(inFn)
			<-ctx.Done()
			return "", errors.Join(err, context.Cause(ctx))
		})
	})
	<-inFn
	cause := errors.New("shutdown took too long")
	ctx, cancel := context.WithCancelCause(b.Context())
	cancel(cause)
	if err := b.client.Close(ctx); err != nil && !errors.Is(err, cause) {
		b.Errorf("Close returned %v, want its context's cause", err)
	}
	a := <-running
	if !errors.Is(a.err, ErrClosed) {
		b.Errorf("fn's context ended with %v, want %v", a.err, ErrClosed)
	}
	b.must(nil, b.client.Close(b.Context())) // waits until the operation has returned
	b.wantEffects(0)
}

// Callers that wait when Close gives up are woken, and do not run fn any more.
func TestCloseWakesWaiters(t *testing.T) {
	b := setup(t)
	b.lockKey(b.key)
	waiting := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("never")) })
	follower := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("never")) })
	b.lockAwaited("the call waits", 1)
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	_ = b.client.Close(ctx) // its error is the test above's
	for _, answers := range []<-chan answer[string]{waiting, follower} {
		if a := <-answers; !errors.Is(a.err, ErrClosed) {
			b.Errorf("got %v, want %v", a.err, ErrClosed)
		}
	}
	b.must(nil, b.client.Close(b.Context()))
	b.wantEffects(0)
}

// What fn leaves behind with its context, as a goroutine may, does not hold the key any more.
func TestHeldKeyEndsWithFn(t *testing.T) {
	b := setup(t)
	var late context.Context
	b.must(DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		late = context.WithoutCancel(ctx) //nolint:fatcontext // The very thing: a context that outlives its function.
		return b.effect("done")(ctx, tx)
	}))
	got, err := DoTx(late, b.client, b.key, b.effect("never"))
	b.wantResult(got, err, "done", true)
}
