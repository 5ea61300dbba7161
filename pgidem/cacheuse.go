package pgidem

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// cacheGuard keeps an answer that was read before a Forget from being put into the cache behind it. Keys share guards, so
// a Forget may also keep out another key's answer, which the next replay then puts.
type cacheGuard struct {
	mu      sync.RWMutex // a Put holds it for reading, Forget's Delete alone
	forgets atomic.Uint64
}

type cacheGuards [64]cacheGuard

func (g *cacheGuards) of(lock int64) *cacheGuard {
	return &g[uint64(lock)%uint64(len(g))] //nolint:gosec // The sign means nothing.
}

// opener decodes an answer of the cache into the variable that its caller gets.
type opener = func(ctx context.Context, saved []byte) error

func (e *encoded[T]) opener(c *Client, key Key) opener {
	return func(ctx context.Context, saved []byte) error {
		value, err := decodeResult[T](ctx, c, key, saved)
		if err == nil {
			*e = encoded[T]{value, saved}
		}
		return err
	}
}

// callStart is what a call knows before it asks the database: whatever it learns is younger.
type callStart struct {
	began   time.Time
	forgets uint64
}

// recall answers from the cache. Where the answer cannot be decoded, because it was sealed with a secret that is gone or is
// of another release's type, the row may be newer: the database is asked.
func (e *execution) recall(ctx context.Context, open opener) (out outcome, found bool, err error) {
	cache := e.client.config.Cache
	if cache == nil || ctx.Err() != nil {
		return outcome{}, false, nil
	}
	e.callStart = callStart{began: time.Now(), forgets: e.client.guards.of(e.lock).forgets.Load()}
	bounded, cancel := context.WithTimeout(ctx, cachePatience)
	defer cancel()
	raw, ok := cache.Get(bounded, e.key)
	if !ok {
		return outcome{}, false, nil
	}
	saved, ok := decodeEntry(e.key, raw)
	if !ok {
		return outcome{}, false, nil
	}
	if saved.steps != (e.kind == kindSteps) {
		return outcome{}, false, e.reused("it belongs to an operation of another kind")
	}
	if !e.fingerprint.matches(saved.fingerprint) {
		return outcome{}, false, e.reused("it was used with another fingerprint")
	}
	out = outcome{attempt: saved.attempt, fingerprint: saved.fingerprint, replayed: true}
	if saved.state == entrySucceeded {
		out.result = saved.saved
		err = open(ctx, saved.saved)
	} else {
		out.failure, err = e.client.decodeFailure(ctx, e.key, saved.saved)
	}
	if err != nil && ctx.Err() == nil {
		_ = cache.Delete(bounded, e.key) // An entry that stays costs the next call the same detour, no more.
	}
	return out, err == nil, nil
}

// remember puts an outcome that is about to be acknowledged into the cache, so no earlier than behind its barrier. Only
// the call that had it from the database does, and only while it is sure of the order: a Forget that has begun
// wins.
func (e *execution) remember(ctx context.Context, out outcome) {
	cache := e.client.config.Cache
	if cache == nil || e.began.IsZero() || ctx.Err() != nil {
		return
	}
	left := out.left
	if !out.replayed {
		left = e.ttl // of a row that was saved after the call had begun
	}
	elapsed := since(e.began, time.Now())
	ttl := entryLife(left, elapsed, e.client.config.CacheMaxAge)
	if ttl <= 0 || elapsed > CacheWindow-cachePatience {
		return
	}
	guard := e.client.guards.of(e.lock)
	if !guard.mu.TryRLock() {
		return
	}
	defer guard.mu.RUnlock()
	if guard.forgets.Load() != e.forgets {
		return
	}
	if raw := entryOf(e.kind, out).encode(e.key); raw != nil {
		bounded, cancel := context.WithTimeout(ctx, cachePatience)
		defer cancel()
		cache.Put(bounded, e.key, raw, ttl)
	}
}

// entryLife is how long an entry may live whose row had left to live, by the database's clock, no earlier than elapsed
// ago. It is shorter by the time that Put may take, and by a thousandth because two clocks never run alike.
func entryLife(left, elapsed, maxAge time.Duration) time.Duration {
	life := left - left/1000 - elapsed - cachePatience
	if maxAge > 0 {
		life = min(life, maxAge-elapsed)
	}
	return life
}

// since asks both of Go's clocks: the monotonic one may stand still while a machine sleeps.
func since(past, now time.Time) time.Duration {
	return max(now.Sub(past), now.Round(0).Sub(past.Round(0)))
}

// uncache makes the client forget what it has of a key in memory. When it returns, every answer that was read before has
// either been deleted or will not be put any more.
func (e *execution) uncache(ctx context.Context) error {
	e.client.flights.part(e.key)
	cache := e.client.config.Cache
	if cache == nil {
		return nil
	}
	guard := e.client.guards.of(e.lock)
	guard.mu.Lock()
	defer guard.mu.Unlock()
	guard.forgets.Add(1)
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), cachePatience)
	defer cancel()
	return cache.Delete(bounded, e.key)
}
