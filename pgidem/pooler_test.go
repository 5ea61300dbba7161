package pgidem

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/internal/faultconn"
)

// clientThrough is a client behind a pooler of the test's own.
func (b *bundle) clientThrough(pooler *devpg.Pooler, edits ...func(*pgxpool.Config)) (*Client, *faultconn.Faults) {
	b.Helper()
	through, err := pgx.ParseConfig(pooler.URL(b.db))
	b.must(through, err)
	client, _, faults := b.newClient(direct("it has a pooler of its own"), withPool(func(p *pgxpool.Config) {
		p.MaxConns = 3 // in session mode each of them keeps a backend
		c := p.ConnConfig
		c.Host, c.Port, c.TLSConfig, c.Fallbacks = through.Host, through.Port, through.TLSConfig, through.Fallbacks
		for _, edit := range edits {
			edit(p)
		}
	}))
	return client, faults
}

func inMode(mode pgx.QueryExecMode) func(*pgxpool.Config) {
	return func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = mode }
}

// TestPoolerModes measures the table of the package comment's section "Poolers": what is refused, by Probe and by the
// first operation alike, and what works.
func TestPoolerModes(t *testing.T) {
	for name, c := range map[string]struct {
		settings []string
		mode     string // of ProbeReport.Pooler; empty where everything is refused
		warnings int
		untracks bool // where the pooler could
	}{
		"Transaction":           {mode: poolerTransaction, warnings: 1},
		"TransactionInTurn":     {settings: []string{"server_round_robin=1"}, mode: poolerTransaction, warnings: 1},
		"TransactionNoTracking": {settings: []string{"max_prepared_statements=0"}, mode: poolerTransaction, warnings: 1, untracks: true},
		"Session":               {settings: []string{"pool_mode=session"}, mode: poolerSession, warnings: 2},
		"Statement":             {settings: []string{"pool_mode=statement"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, direct("it compares poolers of its own"))
			plain := devpg.NewPooler(t)
			tracks, err := plain.Setting(b.Context(), "max_prepared_statements")
			b.must(tracks, err)
			if c.untracks && tracks == "" {
				t.Logf("%v never tracks prepared statements: Transaction is the same", plain)
				c.settings = nil
			}
			pooler := plain
			if len(c.settings) > 0 {
				pooler = devpg.NewPooler(t, c.settings...)
			}
			keeps := tracks != "" && tracks != "0" && !c.untracks || c.mode == poolerSession
			for mode := pgx.QueryExecModeCacheStatement; mode <= pgx.QueryExecModeSimpleProtocol; mode++ {
				refused := c.mode == "" ||
					mode == pgx.QueryExecModeCacheStatement && !keeps ||
					mode == pgx.QueryExecModeDescribeExec && c.mode == poolerTransaction
				client, _ := b.clientThrough(pooler, inMode(mode))
				report, err := client.Probe(b.Context())
				unprobed, _ := b.clientThrough(pooler, inMode(mode))
				b.key.ID = NewID()
				_, doErr := DoTx(b.Context(), unprobed, b.key, b.effect("done"))
				if refused {
					if !errors.Is(err, ErrPooler) {
						b.Errorf("%v: Probe says %v, want %v", mode, err, ErrPooler)
					}
					b.wantError(doErr, ErrPooler)
					b.wantEffects(0)
					continue
				}
				if err != nil || doErr != nil {
					b.Errorf("%v: Probe says %v, DoTx %v", mode, err, doErr)
				}
				b.wantEffects(1)
				if report.Pooler != c.mode || report.PreparedStatements != keeps || len(report.Warnings) != c.warnings ||
					strings.ReplaceAll(report.QueryMode, "_", " ") != mode.String() || report.ServerVersion == "" {
					b.Errorf("%v: report %+v", mode, report)
				}
				b.busy(client)
			}
		})
	}
}

// busy runs fresh keys, replays and reads on all connections at once, so that they meet each other's backends.
func (b *bundle) busy(client *Client) {
	b.Helper()
	var callers sync.WaitGroup
	for range 16 {
		callers.Go(func() {
			key := Key{"busy", NewID()}
			for _, replayed := range []bool{false, true} {
				got, err := DoTx(b.Context(), client, key, b.warmUp, &TxOpts{Retry: replayed})
				b.wantResult(got, err, "warm", replayed)
			}
			if got, err := Lookup[string](b.Context(), client, key); err != nil || got.Value != "warm" {
				b.Errorf("got %+v, %v", got, err)
			}
		})
	}
	callers.Wait()
}

// The refused modes really break: the same two connections, used as pgx does, find each other's backends.
func TestRefusedModesBreak(t *testing.T) {
	b := setup(t, direct("it has a pooler of its own"))
	pooler := devpg.NewPooler(t)
	tracks, err := pooler.Setting(b.Context(), "max_prepared_statements")
	b.must(tracks, err)
	pool := pooler.Pool(t, b.db)
	one, err := pool.Acquire(b.Context())
	b.must(one, err)
	defer one.Release()
	other, err := pool.Acquire(b.Context())
	b.must(other, err)
	defer other.Release()

	const sql = "SELECT $1::int"
	b.must(one.Exec(b.Context(), sql, 1)) // prepared in the backend that is freed last
	sd, err := one.Conn().PgConn().Prepare(b.Context(), "", sql, nil)
	b.must(sd, err)
	tx, err := other.Begin(b.Context()) // takes that backend
	b.must(tx, err)
	_, err = one.Exec(b.Context(), sql, 1)
	if broken := sqlState(err) == "26000"; broken != (tracks == "" || tracks == "0") {
		b.Errorf("cache_statement: %v, where max_prepared_statements is %q", err, tracks)
	}
	if err := one.Conn().PgConn().ExecPrepared(b.Context(), "", [][]byte{[]byte("1")}, nil, nil).Read().Err; sqlState(err) == "" {
		b.Errorf("describe_exec: the unnamed statement is still there: %v", err)
	}
	b.must(nil, tx.Rollback(b.Context()))
}

// What PoolConfig sets is refused by a pooler, with what to do; where the pooler swallows it, Probe says so.
func TestPoolConfigThroughAPooler(t *testing.T) {
	advised := func(p *pgxpool.Config) {
		config, err := PoolConfig("host=127.0.0.1")
		if err != nil {
			t.Error(err)
			return
		}
		p.ConnConfig.RuntimeParams = config.ConnConfig.RuntimeParams
	}
	exec := inMode(pgx.QueryExecModeExec)

	t.Run("Refused", func(t *testing.T) {
		b := setup(t, direct("it has a pooler of its own"))
		client, _ := b.clientThrough(devpg.NewPooler(t), advised, exec)
		_, err := client.Probe(b.Context())
		_, doErr := DoTx(b.Context(), client, b.key, b.effect("never"))
		b.wantError(doErr, ErrPooler)
		for _, err := range []error{err, doErr} {
			for _, says := range []string{"tcp_user_timeout", "pgxpool.ParseConfig", "ignore_startup_parameters"} {
				if !errors.Is(err, ErrPooler) || !strings.Contains(err.Error(), says) {
					b.Errorf("got %v, want %v that says %q", err, ErrPooler, says)
				}
			}
		}
		b.wantEffects(0)
	})
	t.Run("Swallowed", func(t *testing.T) {
		b := setup(t, direct("it has a pooler of its own"))
		pooler := devpg.NewPooler(t, "ignore_startup_parameters=tcp_keepalives_idle,tcp_keepalives_interval,"+
			"tcp_keepalives_count,tcp_user_timeout,client_connection_check_interval")
		client, _ := b.clientThrough(pooler, advised, exec)
		report, err := client.Probe(b.Context())
		if err != nil || len(report.Warnings) != 2 || !strings.Contains(report.Warnings[1], "client_connection_check_interval") {
			b.Errorf("got %+v, %v; want a warning about what was swallowed", report, err)
		}
	})
}

// What a client's first operation pays for its probe, beside a login: six questions, and three more about prepared
// statements where a pooler is in between.
func TestCostOfTheProbe(t *testing.T) {
	b := setup(t, direct("it counts a direct probe, and one through a pooler of its own"))
	wantQuestions := func(what string, client *Client, faults *faultconn.Faults, want int) {
		b.Helper()
		conn, err := client.pool.Acquire(b.Context())
		b.must(conn, err)
		conn.Release()
		login := faults.Counts().RoundTrips
		faults.Reset()
		b.must(nil, client.probeOnce(b.Context()))
		b.must(nil, client.probeOnce(b.Context())) // costs nothing
		if got := faults.Counts(); got.RoundTrips != login+want || got.Connections != 1 {
			b.Errorf("%s: %d questions over %d new connections, want %d over 1", what, got.RoundTrips-login, got.Connections, want)
		}
	}
	wantQuestions("a direct probe", b.client, b.faults, 6)
	client, faults := b.clientThrough(devpg.NewPooler(t), inMode(pgx.QueryExecModeCacheDescribe))
	wantQuestions("a probe through a pooler", client, faults, 6+3)
}

func TestDirectProbeReport(t *testing.T) {
	b := setup(t, direct("it is about a direct connection"), withPool(inMode(pgx.QueryExecModeDescribeExec)))
	report, err := b.client.Probe(b.Context())
	version, _, _ := strings.Cut(one[string](b, b.observe(), "SELECT current_setting('server_version')"), " ")
	if err != nil || report.Pooler != "" || !report.PreparedStatements || len(report.Warnings) != 0 ||
		report.ServerVersion != version || report.QueryMode != "describe_exec" {
		b.Errorf("got %+v, %v", report, err)
	}
}
