package pgidem

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func withCache(cache Cache) option { return withConfig(func(c *Config) { c.Cache = cache }) }

// spy is a MemoryCache that tells what is done to it. A hook runs before what it is named for.
type spy struct {
	*MemoryCache
	onGet, onPut, onDelete func(ctx context.Context)

	mu   sync.Mutex
	puts []put
}

type put struct {
	key   Key
	entry []byte
	ttl   time.Duration
	at    time.Time
}

func newSpy() *spy {
	nothing := func(context.Context) {}
	return &spy{MemoryCache: NewMemoryCache(1 << 20), onGet: nothing, onPut: nothing, onDelete: nothing}
}

func (s *spy) Get(ctx context.Context, key Key) ([]byte, bool) {
	s.onGet(ctx)
	return s.MemoryCache.Get(ctx, key)
}

func (s *spy) Put(ctx context.Context, key Key, entry []byte, ttl time.Duration) {
	s.onPut(ctx)
	s.mu.Lock()
	s.puts = append(s.puts, put{key, entry, ttl, time.Now()})
	s.mu.Unlock()
	s.MemoryCache.Put(ctx, key, entry, ttl)
}

func (s *spy) Delete(ctx context.Context, key Key) error {
	s.onDelete(ctx)
	return errors.Join(ctx.Err(), s.MemoryCache.Delete(ctx, key))
}

func (s *spy) putsOf(key Key) []put {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.puts), func(p put) bool { return p.key != key })
}

func (s *spy) has(key Key) bool {
	_, ok := s.MemoryCache.Get(context.Background(), key)
	return ok
}

// A replay from the cache costs nothing on the wire, whoever ran the operation.
func TestCostOfACachedReplay(t *testing.T) {
	b := setup(t, withCache(NewMemoryCache(1<<20)))
	other, otherPool, otherFaults := b.newClient(withCache(NewMemoryCache(1 << 20)))
	b.warm(b.client, b.pool)
	b.warm(other, otherPool)
	call := func(client *Client, fn func(context.Context, Tx) (string, error), opts ...*TxOpts) func() error {
		return func() error {
			got, err := DoTx(b.Context(), client, b.key, fn, opts...)
			if err == nil && got.Value != "first" {
				b.Errorf("got %+v", got)
			}
			return err
		}
	}
	b.wantCost("a fresh key", 3, 1, call(b.client, b.effect("first")))
	b.wantCost("its replay", 0, 0, call(b.client, b.effect("second")))
	b.wantCost("a known retry", 0, 0, call(b.client, b.effect("second"), &TxOpts{Retry: true}))
	b.wantCost("a batch", 0, 0, func() error {
		_, err := DoBatch(b.Context(), b.client, b.key, "second", func(batch *pgx.Batch) { batch.Queue("SELECT 1/0") })
		return err
	})
	b.must(DoTx(b.Context(), b.client, Key{"s", NewID()}, func(ctx context.Context, _ Tx) (string, error) {
		b.wantCost("a replay inside another operation", 0, 0, func() error {
			_, err := DoTx(ctx, b.client, b.key, b.effect("second"))
			return err
		})
		return "", nil
	}))

	b.faults = otherFaults
	b.wantCost("another process's first replay", 2, 0, call(other, b.effect("second")))
	b.wantCost("another process's second replay", 0, 0, call(other, b.effect("second")))

	key := b.key
	b.key = Key{"s", NewID()}
	failing := func(err error) func() error {
		return func() error {
			_, got := DoTx(b.Context(), other, b.key, func(context.Context, Tx) (string, error) { return "", err })
			var failure *Failure
			if !errors.As(got, &failure) || failure.Message != "no" || !reflect.DeepEqual(failure.Details, map[string]string{"a": "b"}) {
				return errors.Join(errors.New("want the failure"), got)
			}
			failure.Details["a"] = "changed by its caller"
			return nil
		}
	}
	b.must(nil, failing(Permanent(&Failure{Message: "no", Details: map[string]string{"a": "b"}}))())
	b.wantCost("a failure", 0, 0, failing(errors.New("run again")))
	b.wantCost("a failure once more", 0, 0, failing(errors.New("run again")))
	b.key = Key{"s", NewID()}
	b.must(DoBatch(b.Context(), other, b.key, "batch", func(*pgx.Batch) {}))
	b.wantCost("a batch's replay", 0, 0, func() error {
		got, err := DoTx(b.Context(), other, b.key, b.effect("second"))
		b.wantResult(got, err, "batch", true)
		return err
	})

	b.key = key
	b.wantEffects(1)
}

// G2: the first answer, the database's and the cache's are the same.
func TestCachedReplayIsTheFirstAnswer(t *testing.T) {
	type value struct {
		Text  string
		Time  time.Time
		Any   any
		Empty []int
	}
	b := setup(t, withCache(NewMemoryCache(1<<20)))
	plain, _, _ := b.newClient()
	call := func(client *Client) Result[value] {
		got, err := DoTx(b.Context(), client, b.key, func(context.Context, Tx) (value, error) {
			return value{"größe", time.Now(), 1 << 60, nil}, nil
		})
		b.must(nil, err)
		return got
	}
	first, read, cached := call(b.client), call(plain), call(b.client)
	if first.Replayed || !read.Replayed {
		b.Errorf("got %+v, then %+v", first, read)
	}
	if !reflect.DeepEqual(read, cached) || !reflect.DeepEqual(first.Value, cached.Value) {
		b.Errorf("first %+v, from the database %+v, from the cache %+v", first, read, cached)
	}
}

// The same key with another request is refused by the cache's answer too.
func TestCacheComparesFingerprints(t *testing.T) {
	b := setup(t, withCache(NewMemoryCache(1<<20)))
	b.warm(b.client, b.pool)
	call := func(opts *TxOpts) (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, b.effect("first"), opts)
	}
	b.must(call(&TxOpts{Input: "right"}))
	for _, opts := range []*TxOpts{{Input: "wrong"}, {Input: "wrong", Retry: true}, {Fingerprint: Fingerprint{7, []byte("?")}}} {
		b.wantCost("another request", 0, 0, func() error {
			_, err := call(opts)
			b.wantError(err, ErrKeyReused)
			return nil
		})
	}
	for _, opts := range []*TxOpts{nil, {Input: "right"}} {
		got, err := call(opts)
		b.wantResult(got, err, "first", true)
	}
}

// One caller of many puts what all of them get.
func TestFollowersDoNotPut(t *testing.T) {
	cache := newSpy()
	b := setup(t, withCache(cache))
	var followers []<-chan answer[string]
	b.must(DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		for range 8 {
			followers = append(followers, async(b, func() (Result[string], error) {
				return DoTx(b.Context(), b.client, b.key, b.effect("never"))
			}))
		}
		b.joined(8)
		return b.effect("first")(ctx, tx)
	}))
	for _, follower := range followers {
		a := <-follower
		b.wantResult(a.Result, a.err, "first", true)
	}
	if n := len(cache.putsOf(b.key)); n != 1 {
		b.Errorf("the answer was put %d times, want once", n)
	}
}

// G3: an answer whose durability is unknown is not kept for those who ask later.
func TestCacheDoesNotKeepWhatIsNotSettled(t *testing.T) {
	cache := newSpy()
	b := setup(t, withCache(cache))
	b.warm(b.client, b.pool)
	b.must(b.observe().Exec(b.Context(), `
		CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no barrier'; END $$;
		CREATE TRIGGER refuse BEFORE UPDATE ON idempotency_keys FOR EACH ROW EXECUTE FUNCTION refuse()`))
	b.faults.RefuseCancel(true)
	b.faults.Cut(lostAnswer)
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantError(err, ErrUnknownOutcome)
	if puts := cache.putsOf(b.key); len(puts) != 0 {
		b.Errorf("it was put although it could not be made durable: %+v", puts)
	}
	b.must(b.observe().Exec(b.Context(), "DROP TRIGGER refuse ON idempotency_keys"))
	b.faults.Cut(lostAnswer)
	b.key.ID = NewID()
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("done")))
	if !cache.has(b.key) {
		b.Error("it was not put although a barrier has made it durable")
	}
}

// Errors and refusals are not answers.
func TestCacheKeepsAnswersOnly(t *testing.T) {
	cache := newSpy()
	b := setup(t, withCache(cache))
	fail := func(context.Context, Tx) (string, error) { return "", errors.New("transient") }
	if _, err := DoTx(b.Context(), b.client, b.key, fail); err == nil {
		b.Error("the function's error is lost")
	}
	unlock := b.lockKey(b.key)
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	unlock()
	if puts := cache.putsOf(b.key); len(puts) != 0 {
		b.Errorf("an error was put: %+v", puts)
	}
}

// What is sealed in the database is sealed in the cache.
func TestCacheKeepsWhatIsSealed(t *testing.T) {
	cache := newSpy()
	b := setup(t, withCache(cache), withConfig(func(c *Config) { c.Sealer = inverter{} }))
	for _, err := range []error{nil, Permanent(errors.New("secret"))} {
		b.key.ID = NewID()
		for range 2 {
			got, _ := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) { return "secret", err })
			if err == nil && got.Value != "secret" {
				b.Errorf("got %+v", got)
			}
		}
		puts := cache.putsOf(b.key)
		if len(puts) != 1 || bytes.Contains(puts[0].entry, []byte("secret")) || !bytes.Contains(puts[0].entry, invert([]byte("secret"))) {
			b.Errorf("the cache got %+v", puts)
		}
	}
}

// inverter seals for people who do not look closely.
type inverter struct{}

func (inverter) Seal(_ context.Context, _ Key, _ Part, text []byte) ([]byte, error) {
	return invert(text), nil
}

func (inverter) Open(_ context.Context, _ Key, _ Part, text []byte) ([]byte, error) {
	return invert(text), nil
}

func invert(text []byte) []byte {
	inverted := make([]byte, len(text))
	for i := range text {
		inverted[i] = ^text[i]
	}
	return inverted
}
