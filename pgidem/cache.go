package pgidem

import (
	"context"
	"time"
)

// CacheWindow is how long after a call has begun its answer may still be put into [Config].Cache; an answer that took
// longer is left to the next replay. A shared cache needs it for [Cache].Delete.
const CacheWindow = 10 * time.Second

// cachePatience bounds one call of a cache.
const cachePatience = time.Second

// Cache keeps answers of finished operations outside the database, so that a replay from it costs no round trip.
// [NewMemoryCache] makes one in this process's memory. Implement Cache to share one between processes.
//
// A cache may lose whatever it has: that is a miss, and the database is asked. For the same reason Get and Put return
// no error; report it where the cache is. The context of each call ends after a second at most, and callers wait for
// it: a cache that is down should say so sooner. A panic of a cache goes on to the caller of the operation.
//
// An entry holds the outcome as it is saved, so sealed where Config.Sealer is set, and which request it is for. It is bound
// to its key, and one that was damaged or belongs to another key is a miss. It is not protected against
// somebody who forges it: who may write to a cache may answer for the database. The key does not say which database or schema it is
// of: a cache that serves several has to tell them apart, by a prefix of its own keys for example.
//
// It must be safe for concurrent use, and must not call the Client. An entry is never changed, by neither side.
type Cache interface {
	// Get returns the entry that was put last for key, while it lives.
	Get(ctx context.Context, key Key) (entry []byte, ok bool)
	// Put keeps entry for ttl, which is counted from the call and ends before the key expires. It must not take effect
	// after ctx has ended.
	Put(ctx context.Context, key Key, entry []byte, ttl time.Duration)
	// Delete removes the entry. It is called by [Client.Forget], which reports its error, and for entries that cannot be
	// decoded. Another process may have read the key just before it was forgotten, and put it afterwards: to keep that
	// out, Delete has to leave a mark for CacheWindow while which Put does nothing for the key.
	Delete(ctx context.Context, key Key) error
}
