package pgidem

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/internal/faultconn"
)

// fromLiveness finds the liveness connection in pg_stat_activity.
const fromLiveness = `FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'pgidem liveness'`

// wantNoHorizon checks that the long transaction holds nothing that others have to respect: no snapshot, no transaction number.
func (b *bundle) wantNoHorizon(when string) {
	b.Helper()
	if !one[bool](b, b.observe(), `SELECT count(*) > 0 AND bool_and(state = 'idle in transaction' AND backend_xmin IS NULL AND backend_xid IS NULL) `+fromLiveness) {
		b.Errorf("%s the liveness transaction is not there, or holds back what others clean up", when)
	}
}

// pinged waits until the liveness connection has been asked twice more.
func (b *bundle) pinged() {
	b.Helper()
	for range 2 {
		before := one[time.Time](b, b.observe(), "SELECT max(state_change) "+fromLiveness)
		b.until("the liveness connection is asked", "SELECT max(state_change) > $1 "+fromLiveness, before)
	}
}

// The transaction that holds the instance's lock is open for as long as the client is, and in nobody's way: not when it has begun, not
// behind pings, and not behind a rotation.
func TestLivenessTransactionIsInNobodysWay(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.PingInterval, c.RotateAfter = 20*time.Millisecond, time.Second }))
	b.must(b.observe().Exec(b.Context(), "CREATE TABLE bulk AS SELECT n FROM generate_series(1, 5000) n"))
	r := ride{b: b}
	r.call = func(context.Context, StepContext) (string, error) {
		first := b.client.liveness.get()
		b.wantNoHorizon("at first")
		b.pinged()
		b.wantNoHorizon("behind pings")
		b.newInstance(b.client, first)
		b.pinged()
		b.wantNoHorizon("behind a rotation")
		bounded, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		pool := b.observe()
		for _, sql := range []string{
			"CREATE INDEX CONCURRENTLY bulk_n ON bulk (n)", "REINDEX TABLE CONCURRENTLY idempotency_keys", "DELETE FROM bulk",
		} {
			if _, err := pool.Exec(bounded, sql); err != nil {
				b.Errorf("%s: %v", sql, err)
			}
		}
		for left := int64(1); left > 0 && bounded.Err() == nil; { // now and then an autovacuum is in the way
			b.must(pool.Exec(b.Context(), "VACUUM bulk"))
			left = one[int64](b, pool, "SELECT pg_relation_size('bulk')")
		}
		if bounded.Err() != nil {
			b.Error("vacuum cannot remove what was deleted beside the liveness transaction")
		}
		return "charged", nil
	}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
}

// review 17: the server notices within seconds that the client's host has vanished.
func TestReview17LivenessBoundsAVanishedHost(t *testing.T) {
	b := setup(t)
	conn, err := b.client.connectLiveness(b.Context())
	b.must(conn, err)
	in := &instance{id: 42, conn: conn.PgConn()}
	b.must(nil, in.lock(b.Context()))
	defer in.close()
	for setting, want := range map[string]string{
		"tcp_keepalives_idle": "2", "tcp_keepalives_interval": "1", "tcp_keepalives_count": "3", "tcp_user_timeout": "5000",
		"idle_in_transaction_session_timeout": "0", "transaction_isolation": "read committed",
	} {
		results, err := in.conn.Exec(b.Context(), "SHOW "+setting).ReadAll()
		b.must(results, err)
		got := string(results[0].Rows[0][0])
		if strings.HasPrefix(setting, "tcp_") && got == "0" {
			continue // a socket of another kind, or a system that cannot
		}
		if got != want {
			b.Errorf("%s is %s, want %s", setting, got, want)
		}
	}
}

// review 18: the client notices within seconds that the server does not answer any more, and makes a new instance.
func TestReview18PingNoticesASilentServer(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.PingInterval = 50 * time.Millisecond }))
	r := ride{b: b}
	r.call = func(context.Context, StepContext) (string, error) {
		old := b.client.liveness.get()
		hole := b.faults.BlackHole(faultconn.Point{Type: faultconn.Query, Match: func(m faultconn.Message) bool { return m.SQL == "" }})
		b.Cleanup(hole.Heal)
		b.reached(hole)
		in := b.newInstance(b.client, old)
		b.until("the row is tagged anew", "SELECT owner = $1 FROM idempotency_keys WHERE id = $2", in.id, b.key.ID)
		return "charged", nil
	}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
}

// role makes a role that may run operations and log in, and drops it with the test.
func (b *bundle) role(password string) string {
	b.Helper()
	name := "pgidem_test_" + strings.ReplaceAll(NewID(), "-", "")
	pool := b.observe()
	b.must(pool.Exec(b.Context(), fmt.Sprintf(`CREATE ROLE %[1]s LOGIN PASSWORD '%[2]s';
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO %[1]s`, name, password)))
	b.Cleanup(func() {
		b.must(pool.Exec(context.WithoutCancel(b.Context()), fmt.Sprintf("DROP OWNED BY %[1]s; DROP ROLE %[1]s", name)))
	})
	return name
}

// as is the database's URL for a role.
func (b *bundle) as(role, password string) string {
	b.Helper()
	dsn, err := url.Parse(b.db.URL())
	b.must(dsn, err)
	dsn.User = url.UserPassword(role, password)
	return dsn.String()
}

// A password that changes: every new liveness connection, and every connection for a re-tag, asks the pool's BeforeConnect.
func TestLivenessFollowsARotatingPassword(t *testing.T) {
	var role, password atomic.Value
	role.Store("")
	b := setup(t, direct("the pooler does not know the test's role"), withPool(func(p *pgxpool.Config) {
		p.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
			if name, _ := role.Load().(string); name != "" {
				c.User = name
				c.Password, _ = password.Load().(string)
			}
			return nil
		}
	}))
	name := b.role("first")
	password.Store("first")
	role.Store(name)
	r := ride{b: b}
	r.call = func(context.Context, StepContext) (string, error) {
		b.must(b.observe().Exec(b.Context(), "ALTER ROLE "+name+" PASSWORD 'second'"))
		password.Store("second")
		old := b.client.liveness.get()
		b.killLiveness(b.client)
		in := b.newInstance(b.client, old)
		b.until("the row is tagged anew", "SELECT owner = $1 FROM idempotency_keys WHERE id = $2", in.id, b.key.ID)
		if !one[bool](b, b.observe(), "SELECT count(*) > 0 "+fromLiveness+" AND usename = $1", name) {
			b.Error("the liveness connection is not the role's")
		}
		return "charged", nil
	}
	got, err := Do(b.Context(), b.client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
	if got.Attempt != 1 {
		b.Errorf("attempt %d, want 1", got.Attempt)
	}
	conn, err := pgx.Connect(b.Context(), b.as(name, "first"))
	var refused *pgconn.PgError
	switch {
	case err == nil:
		_ = conn.Close(b.Context())
		t.Log("this server asks for no password")
	case !errors.As(err, &refused) || refused.Code != "28P01":
		b.Errorf("the old password got %v, want 28P01", err)
	}
}

// The settings that end idle or long transactions do not end the liveness transaction, wherever they are set.
func TestLivenessOutlivesTheServersTimeouts(t *testing.T) {
	b := setup(t)
	name := b.role("secret")
	settings := []string{"idle_in_transaction_session_timeout", "idle_session_timeout", "statement_timeout"}
	if one[int](b, b.observe(), "SELECT count(*) FROM pg_settings WHERE name = 'transaction_timeout'") > 0 {
		settings = append(settings, "transaction_timeout")
	}
	for _, setting := range settings {
		b.must(b.observe().Exec(b.Context(), fmt.Sprintf("ALTER ROLE %s SET %s = '1s'", name, setting)))
	}
	client, _, _ := b.newClient(withConfig(func(c *Config) { c.LivenessDSN, c.PingInterval = b.as(name, "secret"), time.Hour }))
	r := ride{b: b}
	r.call = func(context.Context, StepContext) (string, error) {
		before := client.liveness.get()
		b.until("the transaction is older than any timeout", "SELECT count(*) = 1 "+fromLiveness+
			" AND usename = $1 AND clock_timestamp() - xact_start > interval '3 s'", name)
		if after := client.liveness.get(); after != before {
			b.Error("the instance was replaced")
		}
		return "charged", nil
	}
	got, err := Do(b.Context(), client, b.key, r.run)
	b.wantResult(got, err, rideResult, false)
}

// With LivenessDSN the pool's own way is not used for the liveness connection.
func TestLivenessDSNIsUsed(t *testing.T) {
	b := setup(t)
	name := b.role("secret")
	client, _, faults := b.newClient(withConfig(func(c *Config) { c.LivenessDSN = b.as(name, "secret") }))
	faults.Record()
	got, err := Do(b.Context(), client, b.key, (&ride{b: b}).run)
	b.wantResult(got, err, rideResult, false)
	if users := one[string](b, b.observe(), "SELECT string_agg(usename, ' ') "+fromLiveness); users != name {
		b.Errorf("the liveness connection is that of %s, want %s", users, name)
	}
	for _, m := range faults.Messages() {
		if strings.Contains(m.SQL, "pgidem liveness") {
			b.Errorf("the pool's way was used: %s", m.SQL)
		}
	}
}

// A LivenessDSN that cannot work is refused without showing the password.
func TestLivenessDSNThatCannotWork(t *testing.T) {
	b := setup(t)
	const secret = "s3cr3t-pw"
	for _, dsn := range []string{
		"postgres://user:" + secret + "@host:noport/db", "host=localhost password=" + secret + " port=none", "postgres://user:" + secret + "@host/db?sslmode=perhaps",
	} {
		_, err := New(b.pool, Config{LivenessDSN: dsn})
		if !errors.Is(err, ErrConfig) || strings.Contains(err.Error(), secret) || !strings.Contains(err.Error(), "LivenessDSN") {
			b.Errorf("got %v; want %v that names LivenessDSN and hides the password", err, ErrConfig)
		}
	}
}

// A LivenessDSN that leads elsewhere makes nobody look alive: no claim succeeds, and nothing is left.
func TestLivenessDSNThatLeadsElsewhere(t *testing.T) {
	for name, opts := range map[string]*DoOpts{"Plain": nil, "StartsWithTx": {StartsWithTx: true}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			elsewhere := devpg.New(t)
			client, _, _ := b.newClient(withConfig(func(c *Config) { c.LivenessDSN = elsewhere.URL() }))
			r := ride{b: b}
			_, err := Do(b.Context(), client, b.key, r.run, opts)
			b.wantError(err, ErrLocks)
			if r.calls != 0 {
				b.Errorf("%d calls, want none", r.calls)
			}
			b.wantEffects(0)
			b.wantState("")
		})
	}
}

// Without a liveness connection nothing is claimed, and the error says why; it works when it can be opened.
func TestLivenessConnectionThatCannotBeOpened(t *testing.T) {
	closed := func(b *bundle) string { // an address where nobody listens
		listener, err := new(net.ListenConfig).Listen(b.Context(), "tcp", "127.0.0.1:0")
		b.must(listener, err)
		b.must(nil, listener.Close())
		return listener.Addr().String()
	}
	for name, opts := range map[string]*DoOpts{"Plain": nil, "StartsWithTx": {StartsWithTx: true}} {
		t.Run("DSN"+name, func(t *testing.T) {
			b := setup(t)
			const secret = "s3cr3t-pw"
			client, _, _ := b.newClient(withConfig(func(c *Config) { c.LivenessDSN = "postgres://user:" + secret + "@" + closed(b) + "/db?sslmode=disable" }))
			r := ride{b: b}
			_, err := Do(b.Context(), client, b.key, r.run, opts)
			b.wantError(err, ErrUnavailable)
			if strings.Contains(err.Error(), secret) {
				b.Errorf("the error shows the password: %v", err)
			}
			if r.creates != 0 {
				b.Error("a step ran without a liveness connection")
			}
			b.wantState("")
		})
		t.Run("Refused"+name, func(t *testing.T) {
			var refuse atomic.Bool
			b := setup(t, withPool(func(p *pgxpool.Config) {
				p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
					if refuse.Load() {
						return errors.New("no credentials today")
					}
					return nil
				}
			}))
			b.warm(b.client, b.pool)
			refuse.Store(true)
			r := ride{b: b}
			_, err := Do(b.Context(), b.client, b.key, r.run, opts)
			b.wantError(err, ErrUnavailable)
			if r.creates != 0 || !strings.Contains(err.Error(), "no credentials today") {
				b.Errorf("%d steps, %v; want none, and the cause", r.creates, err)
			}
			refuse.Store(false)
			b.newInstance(b.client, nil)
			got, err := Do(b.Context(), b.client, b.key, r.run, opts)
			b.wantResult(got, err, rideResult, false)
		})
	}
}

// The liveness connection is lost for longer than a transaction may run again: the caller gets an error that says so.
func TestLivenessLostInTheFirstTransaction(t *testing.T) {
	var refuse atomic.Bool
	b := setup(t, withConfig(func(c *Config) { c.FinishBound = 5 * time.Second }), withPool(func(p *pgxpool.Config) {
		p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error {
			if refuse.Load() {
				return errors.New("no credentials today")
			}
			return nil
		}
	}))
	b.warmDo(b.client)
	b.Cleanup(func() { refuse.Store(false) })
	lost := false
	_, err := Do(b.Context(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) {
		return StepTx(ctx, op, "create", func(ctx context.Context, tx Tx) (string, error) {
			if !lost {
				lost = true
				refuse.Store(true)
				b.killLiveness(b.client)
				b.noInstance(b.client)
			}
			return b.effect("created")(ctx, tx)
		})
	}, &DoOpts{StartsWithTx: true})
	b.wantError(err, ErrUnavailable)
	b.wantEffects(0)
	b.wantState("")
	refuse.Store(false)
	got, err := Do(b.Context(), b.client, b.key, (&ride{b: b}).run, &DoOpts{StartsWithTx: true})
	b.wantResult(got, err, rideResult, false)
}

// noInstance waits until a client knows that it has none.
func (b *bundle) noInstance(c *Client) {
	b.Helper()
	deadline := time.Now().Add(20 * time.Second)
	pool := b.observe()
	for c.liveness.get() != nil {
		if time.Now().After(deadline) {
			b.Fatal("the loss was not noticed within 20 s")
		}
		b.must(pool.Exec(b.Context(), "SELECT pg_sleep(0.005)"))
	}
}

// A client that runs no operations of several steps has no liveness connection; Close ends that of one that does.
func TestLivenessConnectionComesAndGoes(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, Key{"s", NewID()}, b.effect("")))
	if n := one[int](b, b.observe(), "SELECT count(*) "+fromLiveness); n != 0 {
		b.Errorf("%d liveness connections, want none", n)
	}
	for range 2 {
		b.must(Do(b.Context(), b.client, Key{"s", NewID()}, (&ride{b: b}).run))
		if n := one[int](b, b.observe(), "SELECT count(*) "+fromLiveness); n != 1 {
			b.Errorf("%d liveness connections, want one", n)
		}
	}
	b.must(nil, b.client.Close(b.Context()))
	b.until("the liveness connection is closed", "SELECT count(*) = 0 "+fromLiveness)
	_, err := Do(b.Context(), b.client, b.key, (&ride{b: b}).run)
	b.wantError(err, ErrClosed)
}
