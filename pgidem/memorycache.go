package pgidem

import (
	"bytes"
	"container/list"
	"context"
	"strings"
	"sync"
	"time"
)

// memoryEntryOverhead is what an entry takes beside its bytes: the map's cell, the list's element, rounding up. Measured
// with entries of 100 bytes, behind many evictions.
const memoryEntryOverhead = 320

// MemoryCache is a [Cache] in the memory of this process, for one client: to each other, two clients that share one are like
// two processes, and one may put back what the other forgets in the same moment. It keeps what was used last.
// It is safe for concurrent use and starts no goroutine.
type MemoryCache struct {
	maxBytes int
	now      func() time.Time

	mu    sync.Mutex
	bytes int
	byKey map[Key]*list.Element
	used  list.List // of *memoryEntry, the one that was used last in front
}

type memoryEntry struct {
	key   Key
	entry []byte
	put   time.Time
	ttl   time.Duration
}

// NewMemoryCache returns an empty cache of maxBytes: entries, keys and 320 bytes for each. An entry that does not fit
// is not kept; 0 or less keeps nothing.
func NewMemoryCache(maxBytes int) *MemoryCache {
	return &MemoryCache{maxBytes: maxBytes, now: time.Now, byKey: make(map[Key]*list.Element)}
}

// Get implements [Cache].
func (m *MemoryCache) Get(_ context.Context, key Key) (entry []byte, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := m.byKey[key]
	if at == nil {
		return nil, false
	}
	kept := at.Value.(*memoryEntry) //nolint:forcetypeassert // Nothing else is in the list.
	if since(kept.put, m.now()) >= kept.ttl {
		m.remove(at)
		return nil, false
	}
	m.used.MoveToFront(at)
	return kept.entry, true
}

// Put implements [Cache]. It copies what it keeps, so that no larger buffer behind the key or entry is kept alive.
func (m *MemoryCache) Put(ctx context.Context, key Key, entry []byte, ttl time.Duration) {
	kept := &memoryEntry{key: key, entry: entry, ttl: ttl}
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.byKey[key]; at != nil {
		m.remove(at)
	}
	kept.put = m.now()
	deadline, bounded := ctx.Deadline()
	late := bounded && since(deadline, kept.put) >= 0 // the process was stopped on the way here: ttl was counted before
	if late || ttl <= 0 || kept.size() > m.maxBytes {
		return
	}
	for m.bytes+kept.size() > m.maxBytes {
		m.remove(m.used.Back())
	}
	kept.key = Key{Scope: strings.Clone(key.Scope), ID: strings.Clone(key.ID)}
	kept.entry = bytes.Clone(entry)
	m.bytes += kept.size()
	m.byKey[kept.key] = m.used.PushFront(kept)
}

// Delete implements [Cache]. It returns nil.
func (m *MemoryCache) Delete(_ context.Context, key Key) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at := m.byKey[key]; at != nil {
		m.remove(at)
	}
	return nil
}

func (m *MemoryCache) remove(at *list.Element) {
	kept := m.used.Remove(at).(*memoryEntry) //nolint:forcetypeassert // Nothing else is in the list.
	m.bytes -= kept.size()
	delete(m.byKey, kept.key)
}

func (e *memoryEntry) size() int {
	return len(e.key.Scope) + len(e.key.ID) + len(e.entry) + memoryEntryOverhead
}
