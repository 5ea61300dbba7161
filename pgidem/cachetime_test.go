package pgidem

import (
	"math"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// An entry ends before its row, also where the answer of the database was long on its way, and where Put takes all the
// time that it has.
func TestCacheEntryEndsBeforeItsRow(t *testing.T) {
	const ttl = time.Minute
	for name, first := range map[string]bool{"Fresh": true, "Replay": false} {
		t.Run(name, func(t *testing.T) {
			cache := newSpy()
			b := setup(t, withCache(cache))
			b.warm(b.client, b.pool)
			hold := faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"}
			if !first {
				other, _, _ := b.newClient()
				b.must(DoTx(b.Context(), other, b.key, b.effect("done"), &TxOpts{TTL: ttl}))
				hold = faultconn.Point{Side: faultconn.Server, Tag: "SELECT 1"} // the lock's, in front of the row
			}
			held := b.faults.Hold(hold)
			call := async(b, func() (Result[string], error) {
				return DoTx(b.Context(), b.client, b.key, b.effect("done"), &TxOpts{TTL: ttl})
			})
			b.reached(held)
			b.clockRuns(500 * time.Millisecond)
			held.Release()
			a := <-call
			b.wantResult(a.Result, a.err, "done", !first)

			puts := cache.putsOf(b.key)
			if len(puts) != 1 {
				b.Fatalf("got %+v, want one entry", puts)
			}
			left := one[float64](b, b.observe(), "SELECT date_part('epoch', expires_at - clock_timestamp()) FROM idempotency_keys WHERE id = $1", b.key.ID)
			rowEnds := time.Now().Add(time.Duration(left * float64(time.Second))) // or earlier, by what the answer took
			if entryEnds := puts[0].at.Add(cachePatience + puts[0].ttl); entryEnds.After(rowEnds) {
				b.Errorf("the entry ends %v after its row", entryEnds.Sub(rowEnds))
			}
			if puts[0].ttl < ttl/2 {
				b.Errorf("the entry lives %v, of a row that lives %v", puts[0].ttl, ttl)
			}
		})
	}
}

// clockRuns waits until the database's clock has gone on.
func (b *bundle) clockRuns(d time.Duration) {
	b.Helper()
	b.must(b.observe().Exec(b.Context(), "SELECT pg_sleep($1)", d.Seconds()))
}

// The database's clock decides when an answer ends: none comes from the cache when the row has expired.
func TestCacheDoesNotOutliveTheRow(t *testing.T) {
	cache := newSpy()
	b := setup(t, withCache(cache))
	b.warm(b.client, b.pool)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("first"), &TxOpts{TTL: 4 * time.Second}))
	if !cache.has(b.key) {
		b.Fatal("the cache has no entry, so nothing is tested")
	}
	observe := b.observe()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		expired := one[bool](b, observe, "SELECT expires_at <= clock_timestamp() FROM idempotency_keys WHERE id = $1", b.key.ID)
		got, err := DoTx(b.Context(), b.client, b.key, b.effect("second"), &TxOpts{TTL: time.Hour})
		b.must(nil, err)
		if got.Value == "second" {
			return
		}
		if expired {
			b.Fatal("the answer came from the cache when its row had expired")
		}
	}
	b.Error("the key did not expire within 20 s")
}

// What has little left to live is not put at all.
func TestCacheIsNotForShortLives(t *testing.T) {
	cache := newSpy()
	b := setup(t, withCache(cache))
	other, _, _ := b.newClient()
	short := &TxOpts{TTL: cachePatience}
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("fresh"), short))
	if puts := cache.putsOf(b.key); len(puts) != 0 {
		b.Errorf("fresh: got %+v", puts)
	}
	for replayed := false; !replayed; { // once more where the machine was so slow that the row had expired
		b.key.ID = NewID()
		b.must(DoTx(b.Context(), other, b.key, b.effect("first")))
		b.must(b.observe().Exec(b.Context(), "UPDATE idempotency_keys SET expires_at = clock_timestamp() + interval '1 s' WHERE id = $1", b.key.ID))
		got, err := DoTx(b.Context(), b.client, b.key, b.effect("second"))
		b.must(got, err)
		replayed = got.Replayed
	}
	if puts := cache.putsOf(b.key); len(puts) != 0 {
		b.Errorf("replayed: got %+v", puts)
	}
}

// A row that an operator keeps for ever is kept as long as the client says.
func TestCacheMaxAge(t *testing.T) {
	for name, c := range map[string]struct{ maxAge, least, most time.Duration }{
		"None":   {0, 100 * 365 * 24 * time.Hour, math.MaxInt64},
		"Minute": {time.Minute, 30 * time.Second, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			cache := newSpy()
			b := setup(t, withCache(cache), withConfig(func(config *Config) { config.CacheMaxAge = c.maxAge }))
			other, _, _ := b.newClient()
			b.must(DoTx(b.Context(), other, b.key, b.effect("first")))
			b.must(b.observe().Exec(b.Context(), "UPDATE idempotency_keys SET expires_at = 'infinity' WHERE id = $1", b.key.ID))
			b.must(DoTx(b.Context(), b.client, b.key, b.effect("second")))
			puts := cache.putsOf(b.key)
			if len(puts) != 1 || puts[0].ttl < c.least || puts[0].ttl > c.most {
				b.Errorf("got %+v, want one entry of %v to %v", puts, c.least, c.most)
			}
		})
	}
}
