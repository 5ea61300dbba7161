package pgidem

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// lostAnswer is the answer to a COMMIT that has succeeded.
var lostAnswer = faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Before}

func TestForgetReachesTheCache(t *testing.T) {
	b := setup(t, withCache(NewMemoryCache(1<<20)))
	for _, want := range []string{"first", "second"} {
		got, err := DoTx(b.Context(), b.client, b.key, b.effect(want))
		b.wantResult(got, err, want, false)
		got, err = DoTx(b.Context(), b.client, b.key, b.effect("never"))
		b.wantResult(got, err, want, true)
		b.must(nil, b.client.Forget(b.Context(), b.key))
	}
}

// A call that has read the row before it was forgotten gets the old answer, but does not leave it in the cache.
func TestForgetBeatsALatePut(t *testing.T) {
	cache := newSpy()
	b := setup(t, withCache(cache))
	other, _, _ := b.newClient()
	b.warm(b.client, b.pool)
	b.must(DoTx(b.Context(), other, b.key, b.effect("first")))
	hold := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "SELECT 1"}) // read without a lock
	late := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Retry: true})
	})
	b.reached(hold)
	b.must(nil, b.client.Forget(b.Context(), b.key))
	hold.Release()
	a := <-late
	b.wantResult(a.Result, a.err, "first", true)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("second"))
	b.wantResult(got, err, "second", false)
}

// A Put that is under way when the key is forgotten is waited for, so that it cannot land behind the Delete. Others meanwhile
// do without the cache instead of waiting.
func TestForgetWaitsForAPut(t *testing.T) {
	cache := newSpy()
	putting, goOn := make(chan struct{}), make(chan struct{})
	var landed, once atomic.Bool
	cache.onPut = func(context.Context) {
		if once.CompareAndSwap(false, true) {
			close(putting)
			<-goOn
			landed.Store(true)
		}
	}
	early := make(chan struct{})
	cache.onDelete = func(context.Context) {
		if !landed.Load() {
			close(early)
		}
	}
	b := setup(t, withCache(cache))
	first := async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("first")) })
	<-putting
	forgotten := async(b, func() (Result[string], error) {
		return Result[string]{}, b.client.Forget(b.Context(), b.key)
	})
	// The row goes before the cache is asked: what runs now is the key's next life, and must not be cut off either.
	for one[bool](b, b.observe(), "SELECT EXISTS (SELECT FROM idempotency_keys WHERE id = $1)", b.key.ID) {
		select {
		case <-early:
			b.Fatal("Delete overtook a Put")
		default:
		}
	}
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("second"))
	b.wantResult(got, err, "second", false)
	close(goOn)
	b.must(nil, (<-forgotten).err)
	a := <-first
	b.wantResult(a.Result, a.err, "first", false)
	select {
	case <-early:
		b.Error("Delete overtook a Put")
	default:
	}
	got, err = DoTx(b.Context(), b.client, b.key, b.effect("third"))
	b.wantResult(got, err, "second", true)
}

// Under load: who calls after a Forget has returned never gets what it has forgotten.
func TestForgetIsExact(t *testing.T) {
	b := setup(t, withCache(NewMemoryCache(1<<20)))
	var runs, forgotten atomic.Int64
	call := func() (int64, error) {
		got, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (int64, error) { return runs.Add(1), nil },
			&TxOpts{Retry: true})
		return got.Value, err
	}
	var wg sync.WaitGroup
	ended, end := context.WithCancel(b.Context())
	for range 6 {
		wg.Go(func() {
			for ended.Err() == nil {
				least := forgotten.Load()
				if got, err := call(); err != nil || got <= least {
					b.Errorf("got the answer of run %d and %v, when run %d was forgotten", got, err, least)
					return
				}
			}
		})
	}
	for range 100 {
		got, err := call()
		b.must(nil, err)
		if err := b.client.Forget(b.Context(), b.key); err != nil {
			b.Errorf("forget: %v", err)
		}
		forgotten.Store(got)
	}
	end()
	wg.Wait()
}

// What the documentation says of other processes, and what to do about it.
func TestForgetDoesNotReachOtherProcesses(t *testing.T) {
	b := setup(t, withCache(NewMemoryCache(1<<20)))
	other, _, _ := b.newClient(withCache(NewMemoryCache(1 << 20)))
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("first")))
	b.must(DoTx(b.Context(), other, b.key, b.effect("never")))
	b.must(nil, b.client.Forget(b.Context(), b.key))
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("second"))
	b.wantResult(got, err, "second", false)
	got, err = DoTx(b.Context(), other, b.key, b.effect("never"))
	b.wantResult(got, err, "first", true)
	b.must(nil, b.client.Forget(b.Context(), b.key))
	b.wantError(other.Forget(b.Context(), b.key), ErrNotFound)
	got, err = DoTx(b.Context(), other, b.key, b.effect("third"))
	b.wantResult(got, err, "third", false)
}

// A Forget that does not know whether it was committed takes the answer out of the cache all the same.
func TestForgetOfUnknownOutcomeReachesTheCache(t *testing.T) {
	b := setup(t, withCache(NewMemoryCache(1<<20)))
	b.warm(b.client, b.pool)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("first")))
	b.faults.RefuseCancel(true)
	b.faults.Cut(lostAnswer)
	b.wantError(b.client.Forget(b.Context(), b.key), ErrUnknownOutcome)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("second"))
	b.wantResult(got, err, "second", false)
}

// A cache that does not delete is no success, and the next Forget tries again.
func TestForgetTellsThatTheCacheFailed(t *testing.T) {
	cache := newSpy()
	b := setup(t, withCache(&failingDelete{cache, 2}))
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("first")))
	for n := range 2 {
		err := b.client.Forget(b.Context(), b.key)
		b.wantError(err, ErrUnknownOutcome)
		if !errors.Is(err, errCache) {
			b.Errorf("try %d: %v does not tell why", n, err)
		}
		b.wantState("")
		if !cache.has(b.key) {
			b.Fatal("the cache has deleted it")
		}
	}
	b.wantError(b.client.Forget(b.Context(), b.key), ErrNotFound)
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("second"))
	b.wantResult(got, err, "second", false)
}

var errCache = errors.New("the cache is down")

// failingDelete is a cache whose Delete fails a number of times.
type failingDelete struct {
	*spy
	failures int
}

func (f *failingDelete) Delete(ctx context.Context, key Key) error {
	if f.failures--; f.failures >= 0 {
		return errCache
	}
	return f.spy.Delete(ctx, key)
}
