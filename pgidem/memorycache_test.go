package pgidem

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is the time of a test.
type clock struct{ time.Time }

func (c *clock) now() time.Time { return c.Time }

// modelCache says what MemoryCache does in the simplest way: a list, the entry used last at its end.
type modelCache struct {
	maxBytes int
	kept     []modelEntry
}

type modelEntry struct {
	key   Key
	entry []byte
	ends  time.Time
}

func (m *modelCache) size() (bytes int) {
	for _, e := range m.kept {
		bytes += len(e.key.Scope) + len(e.key.ID) + len(e.entry) + 320
	}
	return bytes
}

func (m *modelCache) take(key Key) (e modelEntry, found bool) {
	at := slices.IndexFunc(m.kept, func(e modelEntry) bool { return e.key == key })
	if at < 0 {
		return modelEntry{}, false
	}
	e = m.kept[at]
	m.kept = slices.Delete(m.kept, at, at+1)
	return e, true
}

func (m *modelCache) get(key Key, now time.Time) ([]byte, bool) {
	e, found := m.take(key)
	if !found || !now.Before(e.ends) {
		return nil, false
	}
	m.kept = append(m.kept, e)
	return e.entry, true
}

func (m *modelCache) put(key Key, entry []byte, ends, now time.Time) {
	m.take(key)
	if !now.Before(ends) || (&modelCache{kept: []modelEntry{{key: key, entry: entry}}}).size() > m.maxBytes {
		return
	}
	m.kept = append(m.kept, modelEntry{key, entry, ends})
	for m.size() > m.maxBytes {
		m.kept = m.kept[1:]
	}
}

// Whatever is done to it, the cache answers as the model does and is never larger than it may be.
func TestMemoryCacheIsItsModel(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // A test wants to be repeatable.
		maxBytes := random.IntN(4000)
		at := &clock{time.Unix(1_800_000_000, 0)}
		cache, model := NewMemoryCache(maxBytes), &modelCache{maxBytes: maxBytes}
		cache.now = at.now
		for step := range 500 {
			key := Key{Scope: "s", ID: strings.Repeat("i", 1+random.IntN(12))}
			switch random.IntN(10) {
			case 0:
				if err := cache.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
				model.take(key)
			case 1:
				at.Time = at.Add(time.Duration(random.IntN(20)) * time.Second)
			case 2, 3, 4, 5:
				got, ok := cache.Get(t.Context(), key)
				want, wanted := model.get(key, at.Time)
				if ok != wanted || !bytes.Equal(got, want) {
					t.Fatalf("seed %d, step %d: Get returned %d bytes, %v; want %d, %v", seed, step, len(got), ok, len(want), wanted)
				}
			default:
				entry := bytes.Repeat([]byte{byte(step)}, random.IntN(800))
				ttl := time.Duration(random.IntN(60)) * time.Second
				cache.Put(t.Context(), key, entry, ttl)
				model.put(key, entry, at.Add(ttl), at.Time)
			}
			if cache.bytes != model.size() || cache.bytes > max(maxBytes, 0) || len(cache.byKey) != len(model.kept) || cache.used.Len() != len(model.kept) {
				t.Fatalf("seed %d, step %d: %d bytes in %d entries, want %d in %d and at most %d bytes",
					seed, step, cache.bytes, len(cache.byKey), model.size(), len(model.kept), maxBytes)
			}
		}
	}
}

func TestMemoryCacheDropsWhatWasUsedLongestAgo(t *testing.T) {
	t.Parallel()
	cache := NewMemoryCache(3 * (memoryEntryOverhead + 2 + 10))
	put := func(id string) { cache.Put(t.Context(), Key{"s", id}, make([]byte, 10), time.Minute) }
	has := func(id string) bool { _, ok := cache.Get(t.Context(), Key{"s", id}); return ok }
	put("a")
	put("b")
	put("c")
	if !has("a") {
		t.Fatal("three entries do not fit into the space for three")
	}
	put("d")
	if has("b") || !has("c") || !has("a") || !has("d") {
		t.Errorf("kept: a %v, b %v, c %v, d %v; want all but b, which was used longest ago", has("a"), has("b"), has("c"), has("d"))
	}
}

// What does not fit is not kept, and neither is what it was to replace.
func TestMemoryCacheDoesNotKeepWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	key := Key{"s", "i"}
	for _, maxBytes := range []int{-1, 0, memoryEntryOverhead + 2 + 9} {
		cache := NewMemoryCache(maxBytes)
		cache.Put(t.Context(), key, make([]byte, 9), time.Minute)
		if _, ok := cache.Get(t.Context(), key); ok != (maxBytes > 0) {
			t.Errorf("a cache of %d bytes has the entry: %v", maxBytes, ok)
		}
		cache.Put(t.Context(), key, make([]byte, 10), time.Minute)
		if _, ok := cache.Get(t.Context(), key); ok || cache.bytes != 0 {
			t.Errorf("a cache of %d bytes keeps %d, and an entry: %v", maxBytes, cache.bytes, ok)
		}
	}
}

// ttl was counted before Put was called: one that comes after its context's end would live too long.
func TestMemoryCacheRefusesALatePut(t *testing.T) {
	t.Parallel()
	cache, at, key := NewMemoryCache(1<<20), &clock{time.Now().Round(0)}, Key{"s", "i"}
	cache.now = at.now
	ctx, cancel := context.WithDeadline(t.Context(), at.Add(time.Second))
	defer cancel()
	at.Time = at.Add(time.Second)
	cache.Put(ctx, key, nil, time.Minute)
	if _, ok := cache.Get(t.Context(), key); ok {
		t.Error("an entry was kept that came when its context had ended")
	}
	at.Time = at.Add(-time.Nanosecond)
	cache.Put(ctx, key, nil, time.Minute)
	if _, ok := cache.Get(t.Context(), key); !ok {
		t.Error("an entry was not kept that came in time")
	}
}

// What the caller does to its buffer afterwards does not reach the cache.
func TestMemoryCacheCopies(t *testing.T) {
	t.Parallel()
	cache, entry := NewMemoryCache(1<<20), []byte("entry")
	cache.Put(t.Context(), Key{"s", "i"}, entry, time.Minute)
	entry[0] = 'X'
	if got, _ := cache.Get(t.Context(), Key{"s", "i"}); string(got) != "entry" {
		t.Errorf("the cache has %q", got)
	}
}

// For the race detector; what is found is an entry of the key.
func TestMemoryCacheConcurrently(t *testing.T) {
	t.Parallel()
	cache := NewMemoryCache(10 * (memoryEntryOverhead + 20))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				key := Key{"s", strconv.Itoa((i + worker) % 20)}
				switch i % 5 {
				case 0:
					cache.Put(t.Context(), key, []byte(key.ID), time.Minute)
				case 1:
					_ = cache.Delete(t.Context(), key)
				default:
					if entry, ok := cache.Get(t.Context(), key); ok && string(entry) != key.ID {
						t.Errorf("key %s has the entry %q", key.ID, entry)
					}
				}
			}
		})
	}
	wg.Wait()
	if cache.bytes > cache.maxBytes {
		t.Errorf("the cache has %d bytes, %d are allowed", cache.bytes, cache.maxBytes)
	}
}
