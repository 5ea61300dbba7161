package pgidem

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/internal/faultconn"
)

// A small pooler whose backends are all in use moves connections by chance. No probe may take it for session mode.
func TestBusyPooler(t *testing.T) {
	const backends, clients, probes = 2, 8, 150
	b := setup(t, direct("it has a pooler of its own"))
	pooler := devpg.NewPooler(t, "default_pool_size=2")
	busy := pooler.Pool(t, b.db, func(p *pgxpool.Config) { p.MaxConns = clients }, inMode(pgx.QueryExecModeExec))
	ctx, stop := context.WithCancel(b.Context())
	var callers sync.WaitGroup
	defer callers.Wait()
	defer stop()
	for range clients {
		callers.Go(func() {
			for ctx.Err() == nil {
				_ = pgx.BeginFunc(ctx, busy, func(tx pgx.Tx) error { return second(tx.Exec(ctx, "SELECT 1")) })
			}
		})
	}
	b.until("all backends of the pooler are there", `SELECT count(*) = $1 + 1 FROM pg_stat_activity
		WHERE datname = current_database() AND usesysid IS NOT NULL`, backends)
	client, _ := b.clientThrough(pooler, inMode(pgx.QueryExecModeExec))
	for range probes {
		if report, err := client.Probe(b.Context()); err != nil || report.Pooler != poolerTransaction {
			b.Fatalf("got %+v, %v; want pooling per transaction", report, err)
		}
	}
}

// A question about locks that gets no answer says nothing about locks.
func TestProbeThatIsCut(t *testing.T) {
	for name, nth := range map[string]int{"Own": 1, "Pool": 2, "PoolAgain": 3} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, direct("it is about a server's own connection"))
			b.faults.Cut(faultconn.Point{SQL: "pg_try_advisory_xact_lock", Nth: nth, When: faultconn.After})
			_, err := b.client.Probe(b.Context())
			if !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrLocks) {
				b.Errorf("got %v, want %v", err, ErrUnavailable)
			}
			b.must(b.client.Probe(b.Context()))
		})
	}
}

func TestServerWithoutLocks(t *testing.T) {
	b := setup(t)
	b.must(b.observe().Exec(b.Context(), "ALTER FUNCTION pg_catalog.pg_try_advisory_xact_lock(bigint) RENAME TO hidden_lock"))
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
	b.wantError(err, ErrLocks)
	b.wantEffects(0)
}

// A pooler has one code for what it never does and for what it cannot do now. Only the first is a matter of settings.
func TestPoolerThatCannotServeNow(t *testing.T) {
	named := func(p *pgxpool.Config) { p.ConnConfig.RuntimeParams["application_name"] = "shop" }
	exec := inMode(pgx.QueryExecModeExec)
	wantUnavailable := func(b *bundle, err error) {
		b.Helper()
		if !errors.Is(err, ErrUnavailable) || sqlState(err) != protocolViolation {
			b.Errorf("got %v, want %v with SQLSTATE %s", err, ErrUnavailable, protocolViolation)
		}
	}
	for name, settings := range map[string][]string{
		"OneBackend": {"default_pool_size=1", "query_wait_timeout=1"},
		"OneClient":  {"max_client_conn=1"},
		"ServerDown": {"server_connect_timeout=1", "query_wait_timeout=1", "[databases]", "down = host=127.0.0.1 port=1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, direct("it has a pooler of its own"))
			client, _ := b.clientThrough(devpg.NewPooler(t, settings...), exec, named, func(p *pgxpool.Config) {
				if name == "ServerDown" {
					p.ConnConfig.Database = "down"
				}
			})
			_, err := client.Probe(b.Context())
			wantUnavailable(b, err)
		})
	}
	t.Run("BusyAtBegin", func(t *testing.T) {
		b := setup(t, direct("it has a pooler of its own"))
		pooler := devpg.NewPooler(t, "default_pool_size=1", "query_wait_timeout=1")
		client, faults := b.clientThrough(pooler, exec, named)
		begin := faults.Hold(faultconn.Point{SQL: "begin"})
		probed := async(b, func() (Result[string], error) { return Result[string]{}, second(client.Probe(b.Context())) })
		b.reached(begin)
		tx, err := pooler.Pool(t, b.db, exec).Begin(b.Context()) // takes the only backend
		b.must(tx, err)
		begin.Release()
		wantUnavailable(b, (<-probed).err)
		b.must(nil, tx.Rollback(b.Context()))
	})
}

// What a pooler swallows within the start-up parameter options is named.
func TestSwallowedOptions(t *testing.T) {
	b := setup(t, direct("it has a pooler of its own"))
	pooler := devpg.NewPooler(t, "ignore_startup_parameters=options")
	for _, c := range []struct{ options, says string }{
		{"-c search_path=app,public --statement-timeout=5s", "on: options (search_path, statement_timeout); "},
		{`-c pgidem_test.word=two\ words`, "on: options (pgidem_test.word); "},
		{"", ""},
	} {
		client, _ := b.clientThrough(pooler, inMode(pgx.QueryExecModeExec), func(p *pgxpool.Config) {
			p.ConnConfig.RuntimeParams["options"] = c.options
		})
		report, err := client.Probe(b.Context())
		if warnings := strings.Join(report.Warnings, "\n"); err != nil || !strings.Contains(warnings, c.says) || (c.says == "") != (len(report.Warnings) == 1) {
			b.Errorf("%q: got %v, %v; want a warning with %q", c.options, report.Warnings, err, c.says)
		}
	}
	if _, known := optionSettings("-c search_path=app -e"); known {
		b.Error("-e was taken for a setting")
	}
	// The session has what was asked for, from elsewhere.
	b.must(b.observe().Exec(b.Context(), `DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET search_path = app, public', current_database());
		EXECUTE format('ALTER DATABASE %I SET pgidem_test.word = "two words"', current_database());
	END $$`))
	client, _ := b.clientThrough(devpg.NewPooler(t, "ignore_startup_parameters=options"), inMode(pgx.QueryExecModeExec), func(p *pgxpool.Config) {
		p.ConnConfig.RuntimeParams["options"] = `-csearch_path=app,\ public  -c pgidem_test.word=two\ words`
	})
	if report, err := client.Probe(b.Context()); err != nil || len(report.Warnings) != 1 {
		b.Errorf("got %v, %v; want one warning", report.Warnings, err)
	}
}
