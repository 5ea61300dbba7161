package pgidem

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/internal/faultconn"
	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// bundle is a database of the test's own with a client on it, behind faults that the test may arm.
type bundle struct {
	*testing.T
	db     *devpg.Database
	faults *faultconn.Faults
	pool   *pgxpool.Pool
	client *Client
	key    Key
	// direct is why the client that is being made does not go through the run's pooler; empty if it does.
	direct string
}

type option func(*bundle, *Config, *pgxpool.Config)

func withConfig(edit func(*Config)) option {
	return func(_ *bundle, c *Config, _ *pgxpool.Config) { edit(c) }
}

func withPool(edit func(*pgxpool.Config)) option {
	return func(_ *bundle, _ *Config, p *pgxpool.Config) { edit(p) }
}

// withSetting is for settings of the session, which a transaction pooler does not have.
func withSetting(name, value string) option {
	return func(b *bundle, _ *Config, p *pgxpool.Config) {
		p.ConnConfig.RuntimeParams[name] = value
		b.direct = "it sets " + name + " for its sessions"
	}
}

// direct lets a client past the pooler of `make poolers`, because of what its test is about.
func direct(why string) option {
	return func(b *bundle, _ *Config, _ *pgxpool.Config) { b.direct = why }
}

// createEffects stands for what users write: one row per execution.
const createEffects = "CREATE TABLE effects (n bigint GENERATED ALWAYS AS IDENTITY, key text NOT NULL)"

// setup gives a parallel test its bundle, with the table effects.
func setup(t *testing.T, options ...option) *bundle {
	t.Helper()
	t.Parallel()
	b := &bundle{T: t, db: devpg.New(t), key: Key{Scope: "acct_42/charges", ID: NewID()}}
	setupPool := b.db.Pool(t)
	b.must(setupPool.Exec(b.Context(), createEffects))
	setupPool.Close()
	b.client, b.pool, b.faults = b.newClient(options...)
	return b
}

// newClient is a client on a pool of its own: to the library, another process.
func (b *bundle) newClient(options ...option) (*Client, *pgxpool.Pool, *faultconn.Faults) {
	b.Helper()
	faults := faultconn.New()
	b.Cleanup(faults.Close)
	var config Config
	b.direct = ""
	pool := b.db.Pool(b.T, func(p *pgxpool.Config) {
		p.MaxConns = 8
		b.setQueryMode(p)
		mode := p.ConnConfig.DefaultQueryExecMode
		// A ping of an idle connection would be counted as a round trip of ours, or meet a fault that is not for it.
		p.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
		for _, edit := range options {
			edit(b, &config, p)
		}
		if of := p.ConnConfig.DefaultQueryExecMode; of == pgx.QueryExecModeCacheStatement && of != mode {
			b.direct = "its statement cache needs a pooler for which `make poolers` sets that mode itself"
		}
		b.route(p)
		faults.Configure(p)
	})
	client, err := New(pool, config)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { // before its pool closes; a test that has closed it closes it once more
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.Context()), 20*time.Second)
		defer cancel()
		if err := client.Close(ctx); err != nil {
			b.Error(err)
		}
	})
	return client, pool, faults
}

// setQueryMode takes pgx's mode from PGIDEM_QUERY_MODE, spelled as in a connection string: exec, for example.
func (b *bundle) setQueryMode(p *pgxpool.Config) {
	b.Helper()
	mode := os.Getenv("PGIDEM_QUERY_MODE")
	if mode == "" {
		return
	}
	config, err := pgx.ParseConfig("postgres://localhost?default_query_exec_mode=" + mode)
	if err != nil {
		b.Fatalf("PGIDEM_QUERY_MODE: %v", err)
	}
	p.ConnConfig.DefaultQueryExecMode = config.DefaultQueryExecMode
}

// route leads the client under test through the run's pooler, if there is one. The test's own questions and what it sets up
// go to the server, so that they do not change what is tested.
func (b *bundle) route(p *pgxpool.Config) {
	b.Helper()
	pooler := b.db.Pooler()
	if pooler == nil || b.direct != "" {
		return
	}
	through, err := pgx.ParseConfig(pooler.URL(b.db))
	if err != nil {
		b.Fatal(err)
	}
	c := p.ConnConfig
	c.Host, c.Port, c.TLSConfig, c.Fallbacks = through.Host, through.Port, through.TLSConfig, through.Fallbacks
}

// atCommit is the batch that ends with COMMIT. "COMMIT" alone would also be found in READ COMMITTED.
func atCommit(when faultconn.When) faultconn.Point {
	return faultconn.Point{SQL: "COMMIT", When: when, Match: func(m faultconn.Message) bool {
		return strings.HasSuffix(strings.TrimRight(m.SQL, "; "), "COMMIT")
	}}
}

// must fails the test where a statement of the test itself fails.
func (b *bundle) must(_ any, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// effect is the usual function of the tests: it writes one effect and returns result.
func (b *bundle) effect(result string) func(context.Context, Tx) (string, error) {
	return func(ctx context.Context, tx Tx) (string, error) {
		_, err := tx.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", b.key.ID)
		return result, err
	}
}

// warm runs one operation and one replay on every connection of the pool, so that statements are prepared, and the
// client has probed.
func (b *bundle) warm(client *Client, pool *pgxpool.Pool) {
	b.Helper()
	key := Key{Scope: "warm", ID: NewID()}
	for range 2 {
		b.must(DoTx(b.Context(), client, key, b.warmUp, &TxOpts{Retry: true}))
	}
	if pool.Stat().TotalConns() != 1 {
		b.Fatalf("the warm-up used %d connections, one was expected", pool.Stat().TotalConns())
	}
}

func (b *bundle) warmUp(ctx context.Context, tx Tx) (string, error) {
	_, err := tx.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", "warm")
	return "warm", errors.Join(err, tx.Last("INSERT INTO effects (key) VALUES ($1)", "warm"))
}

// observe returns a pool without faults and without the options of the one under test.
func (b *bundle) observe() *pgxpool.Pool {
	b.Helper()
	return b.db.Pool(b.T)
}

func one[T any](b *bundle, pool *pgxpool.Pool, sql string, args ...any) T {
	b.Helper()
	rows, err := pool.Query(b.Context(), sql, args...)
	if err != nil {
		b.Fatal(err)
	}
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		b.Fatalf("%s: %v", sql, err)
	}
	return value
}

// wantEffects checks G1 in the database: how many executions of the key have left something.
func (b *bundle) wantEffects(want int) {
	b.Helper()
	if got := one[int](b, b.observe(), "SELECT count(*) FROM effects WHERE key = $1", b.key.ID); got != want {
		b.Errorf("the key has %d effects in the database, want %d", got, want)
	}
}

// wantState checks the key's row; "" means that there must be none.
func (b *bundle) wantState(want string) {
	b.Helper()
	got := one[string](b, b.observe(),
		"SELECT coalesce((SELECT state FROM idempotency_keys WHERE scope = $1 AND id = $2), '')", b.key.Scope, b.key.ID)
	if got != want {
		b.Errorf("the key's row has state %q, want %q", got, want)
	}
}

// wantResult checks a result and whether it was replayed.
func (b *bundle) wantResult(got Result[string], err error, value string, replayed bool) {
	b.Helper()
	if err != nil || got.Value != value || got.Replayed != replayed {
		b.Errorf("got %+v, %v; want %q, replayed %v", got, err, value, replayed)
	}
}

// wantError checks that err is of a kind, is about the bundle's key, and hides its ID.
func (b *bundle) wantError(err, kind error) {
	b.Helper()
	if !errors.Is(err, kind) {
		b.Fatalf("got %v, want %v", err, kind)
	}
	if len(b.key.ID) == 36 && strings.Contains(err.Error(), b.key.ID) {
		b.Errorf("the error shows the ID: %v", err)
	}
	var e *Error
	if errors.As(err, &e) && e.Key != b.key {
		b.Errorf("the error is about %v, want %v", e.Key, b.key)
	}
}

// lockKey takes the key's lock on a connection of its own, as another process would, and returns how to free it.
func (b *bundle) lockKey(key Key) (unlock func()) {
	b.Helper()
	pool := b.observe()
	tx, err := pool.Begin(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.must(tx.Exec(b.Context(), "SELECT pg_advisory_xact_lock($1)", key.lock()))
	unlock = func() {
		if err := tx.Rollback(context.WithoutCancel(b.Context())); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
			b.Error(err)
		}
	}
	b.Cleanup(unlock) // also where the test fails early
	return unlock
}

// reached waits until a fault has struck.
func (b *bundle) reached(fault *faultconn.Fault) {
	b.Helper()
	select {
	case <-fault.Reached():
	case <-time.After(20 * time.Second):
		b.Fatal("the point of the fault was not reached within 20 s")
	}
}

// lockAwaited polls the server's own view until n backends of the test's database wait for an advisory lock.
func (b *bundle) lockAwaited(what string, n int) {
	b.Helper()
	b.until(what, `SELECT count(*) = $1 FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'`, n)
}

// until polls the database until it answers true.
func (b *bundle) until(what, sql string, args ...any) {
	b.Helper()
	pool := b.observe()
	deadline := time.Now().Add(20 * time.Second)
	for !one[bool](b, pool, sql, args...) {
		if time.Now().After(deadline) {
			b.Fatalf("%s: not seen within 20 s", what)
		}
		b.must(pool.Exec(b.Context(), "SELECT pg_sleep(0.005)"))
	}
}

// async runs f in a goroutine that is waited for, and returns its answer's channel.
func async[T any](b *bundle, f func() (Result[T], error)) <-chan answer[T] {
	answers := make(chan answer[T], 1)
	done := make(chan struct{})
	b.Cleanup(func() { <-done })
	go func() {
		defer close(done)
		defer close(answers) // without an answer where f has ended the test
		result, err := f()
		answers <- answer[T]{result, err}
	}()
	return answers
}

type answer[T any] struct {
	Result[T]
	err error
}

// withoutLocks removes every advisory lock of a client: what is left is what the unique row guarantees.
func withoutLocks(c *Client) {
	c.tryLockSQL = "SELECT $1::bigint IS NOT NULL, set_config('pgidem.claim', $2::text, true), coalesce(to_regclass('idempotency_keys')::oid, 0)::bigint"
	c.saveFirstSQL = strings.ReplaceAll(dbsqlc.KeySaveFirst, "pg_try_advisory_xact_lock($3::bigint)", "$3::bigint IS NOT NULL")
	c.lockSQL = "SELECT $1::text, $2::bigint, '', '', set_config('pgidem.claim', $3::text, true), coalesce(to_regclass('idempotency_keys')::oid, 0)::bigint"
}
