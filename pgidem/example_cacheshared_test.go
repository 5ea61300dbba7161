package pgidem_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

// sharedCache shows how a key-value store becomes a Cache: values with an expiry, a Put that spares what Delete has marked,
// and in a real one a timeout of some milliseconds.
type sharedCache struct {
	prefix string // tells apart the databases whose answers are in one store
	store  *store
}

// name is unambiguous: the length says where the scope ends.
func (c sharedCache) name(key pgidem.Key) string {
	return fmt.Sprintf("%s:%d:%s:%s", c.prefix, len(key.Scope), key.Scope, key.ID)
}

func (c sharedCache) Get(_ context.Context, key pgidem.Key) ([]byte, bool) {
	entry := c.store.get(c.name(key))
	return entry, entry != nil
}

func (c sharedCache) Put(_ context.Context, key pgidem.Key, entry []byte, ttl time.Duration) {
	c.store.set(c.name(key), entry, ttl)
}

func (c sharedCache) Delete(_ context.Context, key pgidem.Key) error {
	c.store.mark(c.name(key), pgidem.CacheWindow)
	return nil
}

// store stands for any key-value store. A marked name has the value nil.
type store struct {
	mu     sync.Mutex
	values map[string]value
}

type value struct {
	entry []byte
	ends  time.Time
}

func (s *store) get(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.values[name]; time.Now().Before(v.ends) {
		return v.entry
	}
	return nil
}

func (s *store) set(name string, entry []byte, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, found := s.values[name]
	if marked := found && old.entry == nil && time.Now().Before(old.ends); !marked {
		s.values[name] = value{entry, time.Now().Add(ttl)}
	}
}

func (s *store) mark(name string, ttl time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values[name] = value{nil, time.Now().Add(ttl)}
}

// Two processes share what they have answered, and what one of them has forgotten.
func ExampleCache() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	shared := sharedCache{prefix: "shop", store: &store{values: map[string]value{}}}
	process := func() *pgidem.Client {
		client, err := pgidem.New(pool, pgidem.Config{Cache: shared})
		if err != nil {
			panic(err)
		}
		return client
	}
	a, b := process(), process()

	key := pgidem.Key{Scope: "acct_42/quotes", ID: "order-1"}
	runs := 0
	quote := func(client *pgidem.Client) {
		result, err := pgidem.DoTx(ctx, client, key, func(context.Context, pgidem.Tx) (int, error) { runs++; return runs, nil })
		if err != nil {
			panic(err)
		}
		fmt.Println("quote", result.Value, "replayed:", result.Replayed)
	}
	quote(a)
	quote(b)
	if err := a.Forget(ctx, key); err != nil {
		panic(err)
	}
	quote(b)

	// Output:
	// quote 1 replayed: false
	// quote 1 replayed: true
	// quote 2 replayed: false
}
