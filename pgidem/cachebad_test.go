package pgidem

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// fakeCache answers as its function says, and keeps nothing.
type fakeCache func(ctx context.Context, key Key) ([]byte, bool)

func (f fakeCache) Get(ctx context.Context, key Key) ([]byte, bool)             { return f(ctx, key) }
func (f fakeCache) Put(ctx context.Context, key Key, _ []byte, _ time.Duration) { f(ctx, key) }

func (f fakeCache) Delete(ctx context.Context, key Key) error {
	f(ctx, key)
	return ctx.Err()
}

// Whatever a cache returns, the answer is right and nothing runs twice.
func TestCacheThatCannotBeUsed(t *testing.T) {
	for name, cache := range map[string]fakeCache{
		"Empty":   func(context.Context, Key) ([]byte, bool) { return nil, false },
		"Nil":     func(context.Context, Key) ([]byte, bool) { return nil, true },
		"Garbage": func(context.Context, Key) ([]byte, bool) { return bytes.Repeat([]byte{1}, 100), true },
		"NotOK": func(_ context.Context, key Key) ([]byte, bool) {
			return entry{state: entrySucceeded, attempt: 1, saved: []byte(`"wrong"`)}.encode(key), false
		},
		"OtherKey": func(context.Context, Key) ([]byte, bool) {
			return entry{state: entrySucceeded, attempt: 1, saved: []byte(`"wrong"`)}.encode(Key{"s", "i"}), true
		},
		"Hanging": func(ctx context.Context, _ Key) ([]byte, bool) { <-ctx.Done(); return nil, false },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withCache(cache))
			got, err := DoTx(b.Context(), b.client, b.key, b.effect("first"))
			b.wantResult(got, err, "first", false)
			got, err = DoTx(b.Context(), b.client, b.key, b.effect("second"))
			b.wantResult(got, err, "first", true)
			b.wantEffects(1)
			if err := b.client.Forget(b.Context(), b.key); (err == nil) != (name != "Hanging") || err != nil && !errors.Is(err, ErrUnknownOutcome) {
				b.Errorf("forget: %v", err)
			}
			b.wantState("")
		})
	}
}

// A cache's panic is its user's to see. It leaves nothing held: the key, the connection, the guard, the client.
func TestCacheThatPanics(t *testing.T) {
	for name, c := range map[string]struct {
		arm  func(*spy, func(context.Context))
		call func(*bundle)
		want string // what is saved afterwards
	}{
		"Get":    {func(s *spy, hook func(context.Context)) { s.onGet = hook }, (*bundle).callDoTx, ""},
		"Put":    {func(s *spy, hook func(context.Context)) { s.onPut = hook }, (*bundle).callDoTx, stateSucceeded},
		"Delete": {func(s *spy, hook func(context.Context)) { s.onDelete = hook }, (*bundle).callForget, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cache := newSpy()
			b := setup(t, withCache(cache))
			b.callDoTx()
			if name != "Delete" {
				b.callForget()
			}
			c.arm(cache, func(context.Context) { panic(errCache) })
			func() {
				defer func() {
					if got := recover(); got != errCache {
						b.Errorf("the call panicked with %v, want the cache's panic", got)
					}
				}()
				c.call(b)
			}()
			b.wantState(c.want)
			c.arm(cache, func(context.Context) {})
			if err := b.client.Forget(b.Context(), b.key); err != nil && !errors.Is(err, ErrNotFound) {
				b.Error(err)
			}
			got, err := DoTx(b.Context(), b.client, b.key, b.effect("again"))
			b.wantResult(got, err, "again", false)
			if busy := b.pool.Stat().AcquiredConns(); busy != 0 {
				b.Errorf("%d connections are in use", busy)
			}
			b.must(nil, b.client.Close(b.Context()))
		})
	}
}

func (b *bundle) callDoTx()   { b.must(DoTx(b.Context(), b.client, b.key, b.effect("done"))) }
func (b *bundle) callForget() { b.must(nil, b.client.Forget(b.Context(), b.key)) }

// A call whose context has ended does not ask the cache, and a cache that hangs ends with the call.
func TestCacheFollowsTheCaller(t *testing.T) {
	asked := make(chan context.Context, 1)
	b := setup(t, withCache(fakeCache(func(ctx context.Context, _ Key) ([]byte, bool) {
		asked <- ctx
		<-ctx.Done()
		return nil, false
	})))
	ctx, cancel := context.WithCancel(b.Context())
	call := async(b, func() (Result[string], error) { return DoTx(ctx, b.client, b.key, b.effect("never")) })
	got := <-asked
	if deadline, bounded := got.Deadline(); !bounded || time.Until(deadline) > cachePatience {
		b.Errorf("the cache may take until %v, %v; want %v at most", deadline, bounded, cachePatience)
	}
	cancel()
	if a := <-call; !errors.Is(a.err, context.Canceled) {
		b.Errorf("got %v, want the context's end", a.err)
	}
	if _, err := DoTx(ctx, b.client, b.key, b.effect("never")); !errors.Is(err, context.Canceled) {
		b.Errorf("got %v, want the context's end", err)
	}
	select {
	case <-asked:
		b.Error("the cache was asked for a caller that has gone")
	default:
	}
	b.wantEffects(0)
}

// An answer that cannot be decoded is not the last word: the row may be newer, as it is after its secret was changed.
func TestUndecodableEntryFallsBackToTheRow(t *testing.T) {
	for name, e := range map[string]entry{
		"Result":  {state: entrySucceeded, attempt: 1, saved: []byte(`{"not": "a string"}`)},
		"Failure": {state: entryFailed, attempt: 1, saved: []byte(`not JSON`)},
	} {
		t.Run(name, func(t *testing.T) {
			cache := newSpy()
			b := setup(t, withCache(cache))
			b.warm(b.client, b.pool)
			b.must(DoTx(b.Context(), b.client, b.key, b.effect("first")))
			cache.MemoryCache.Put(b.Context(), b.key, e.encode(b.key), time.Minute)
			replay := func() error {
				got, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
				b.wantResult(got, err, "first", true)
				return err
			}
			b.wantCost("an entry that cannot be decoded", 2, 0, replay)
			b.wantCost("the one that replaced it", 0, 0, replay)

			b.wantCost("a row that cannot be decoded either", 2, 0, func() error {
				_, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (int, error) { return 0, nil })
				b.wantError(err, ErrResult)
				return nil
			})
			_, err := DoBatch(b.Context(), b.client, b.key, 0, func(*pgx.Batch) {})
			b.wantError(err, ErrResult)
			b.must(nil, replay())
		})
	}
}
