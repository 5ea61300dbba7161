package pgidem

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// schemaVersion is the schema that this release was written for.
const schemaVersion = 1

const grantHint = "this role needs SELECT, INSERT, UPDATE and DELETE on idempotency_keys and idempotency_steps"

const migrateHint = `run migrations.Up, or goose -dir migrations -table pgidem_goose_version postgres "$DATABASE_URL" up`

// probed remembers that the database was found fit.
type probed struct {
	done   atomic.Bool
	asking chan struct{} // one slot: whoever has it asks
}

// ProbeReport is what [Client.Probe] found, for people and logs. Fields that the probe did not come to are zero.
type ProbeReport struct {
	// ServerVersion is PostgreSQL's own, without the packager's additions: "17.5".
	ServerVersion string `json:"server_version"`
	// Pooler is empty for a direct connection. Otherwise a pooler is in between (the server's process has another
	// number than the connection was told): "transaction" if a connection's transactions meet different server
	// connections, or those of two connections the same one; else "session".
	Pooler string `json:"pooler"`
	// QueryMode is how pgx sends statements by default, spelled as in default_query_exec_mode of a connection string.
	QueryMode string `json:"query_mode"`
	// PreparedStatements says whether a statement that was prepared earlier is found by a later transaction. Only the
	// mode cache_statement needs that.
	PreparedStatements bool `json:"prepared_statements"`
	// Warnings name what works with less than a direct connection has, and what to do about it, one sentence each.
	Warnings []string `json:"warnings,omitempty"`
}

// Probe asks whether the database, and a pooler in between, keep what the library relies on: it can be written to, its
// schema fits, an advisory lock that one connection holds is refused to another, and pgx's query mode works through the
// pooler. Probing the locks catches servers and proxies that accept the lock functions without locking, and connection
// strings that lead to several servers. It opens one connection beside the pool, with the pool's settings, and closes it
// again. It takes [Config].FinishBound at most.
//
// A client probes once by itself, before its first [DoTx], [Do], [DoBatch] or [Client.Reseal] that goes to the database; [InTx], [MarkTx],
// [Lookup] and [Client.Forget] never do. Call Probe to learn of a problem at start-up, and for the warnings. Returns ErrUnavailable, ErrReadOnly, ErrSchema, ErrLocks, ErrPooler or ErrClosed, and what was found
// until then.
func (c *Client) Probe(ctx context.Context) (ProbeReport, error) {
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return ProbeReport{}, err
	}
	defer end()
	ctx, cancel := c.boundNested(ctx)
	defer cancel()
	ctx, cancel = c.boundProbe(ctx)
	defer cancel()
	return c.probe(ctx, true)
}

// probeOnce lets one caller probe while the others wait; a failed probe is repeated by the next call.
func (c *Client) probeOnce(caller context.Context) error {
	if c.probed.done.Load() {
		return nil
	}
	ctx, cancel := c.boundProbe(caller)
	defer cancel()
	select {
	case c.probed.asking <- struct{}{}:
		defer func() { <-c.probed.asking }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if c.probed.done.Load() {
		return nil
	}
	_, err := c.probe(ctx, false)
	return err
}

// boundProbe is for callers without a deadline, who would queue for ever behind a server that does not answer.
func (c *Client) boundProbe(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.config.FinishBound, &Error{
		Kind: ErrUnavailable, Reason: "the database did not answer the probe within Config.FinishBound " +
			"(it needs two connections of the server at once, behind a pooler too)",
	})
}

// probe asks, and looks for what deserves a warning only if somebody reads it.
func (c *Client) probe(ctx context.Context, warn bool) (ProbeReport, error) {
	var random [8]byte
	_, _ = rand.Read(random[:])
	p := prober{
		client: c, mode: c.pool.Config().ConnConfig.DefaultQueryExecMode,
		lock: int64(binary.BigEndian.Uint64(random[:])), //nolint:gosec // All 64 bits are wanted.
	}
	err := p.ask(ctx, warn)
	if err == nil {
		c.probed.done.Store(true)
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return p.report, err
}

// prober is one probe: a connection of the pool, and one beside it.
type prober struct {
	client *Client
	mode   pgx.QueryExecMode // of the client; the probe itself uses one that works everywhere
	report ProbeReport
	lock   int64 // that nobody else uses

	pooled *pgxpool.Conn
	own    *pgx.Conn

	backends    []int32 // that the pool's connection has met
	ownBackends []int32 // that the own connection has met
	keepsName   bool    // a prepared statement has the name that it was given
}

func (p *prober) ask(ctx context.Context, warn bool) (err error) {
	p.report.QueryMode = modeName(p.mode)
	if p.pooled, err = p.client.pool.Acquire(ctx); err != nil {
		return p.connectError(ctx, err, "no connection from the pool")
	}
	defer p.pooled.Release()
	if err := p.askServer(ctx); err != nil {
		return err
	}
	if p.own, err = p.client.connect(ctx); err != nil {
		return p.connectError(ctx, err, "the probe's own connection failed")
	}
	defer func() { _ = p.own.Close(context.WithoutCancel(ctx)) }()
	if err := p.askLocks(ctx); err != nil {
		return err
	}
	if err := p.askPooler(ctx); err != nil || !warn {
		return err
	}
	return p.warn(ctx)
}

// through sends the probe's questions as single messages that rely on nothing prepared or described before.
func (p *prober) through(db dbsqlc.DBTX) dbsqlc.DBTX {
	if p.mode == pgx.QueryExecModeSimpleProtocol {
		return db
	}
	return execMode{db}
}

type execMode struct{ dbsqlc.DBTX }

func (q execMode) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return q.DBTX.QueryRow(ctx, sql, append([]any{pgx.QueryExecModeExec}, args...)...)
}

func (p *prober) askServer(ctx context.Context) error {
	server, err := dbsqlc.New().ProbeServer(ctx, p.through(p.pooled))
	if err != nil {
		return unanswered(err, "the first question to the server")
	}
	p.report.ServerVersion, _, _ = strings.Cut(server.Version, " ")
	p.backends = append(p.backends, server.Backend)
	switch {
	case server.InRecovery:
		return &Error{Kind: ErrReadOnly, Reason: "it is a standby; connect to the primary (target_session_attrs=read-write)"}
	case server.ReadOnly:
		return &Error{Kind: ErrReadOnly, Reason: "default_transaction_read_only is on for this role, database or server"}
	case server.KeysTable == 0:
		return &Error{Kind: ErrSchema, Reason: "there is no table idempotency_keys in search_path; " + migrateHint}
	case !server.Granted:
		return &Error{Kind: ErrSchema, Reason: grantHint}
	}
	return checkVersion(server.SchemaComment)
}

// checkVersion reads the comment on idempotency_keys.
func checkVersion(comment string) error {
	var version, compatible int
	if _, err := fmt.Sscanf(comment, "pgidem schema=%d compatible=%d", &version, &compatible); err != nil {
		return &Error{Kind: ErrSchema, Reason: fmt.Sprintf(
			"the comment on idempotency_keys is %q and does not name a schema version; %s", comment, migrateHint)}
	}
	switch {
	case version < schemaVersion:
		return &Error{Kind: ErrSchema, Reason: fmt.Sprintf("it has version %d, this release needs %d; %s", version, schemaVersion, migrateHint)}
	case compatible > schemaVersion:
		return &Error{Kind: ErrSchema, Reason: fmt.Sprintf(
			"it has version %d, which needs a release of pgidem for schema %d or later; this one is for %d: upgrade the library",
			version, compatible, schemaVersion)}
	}
	return nil
}

// askLocks holds the lock on the probe's own connection and asks for it on the pool's, then again when it is free.
func (p *prober) askLocks(ctx context.Context) error {
	tx, err := p.own.Begin(ctx)
	if err != nil {
		return p.beginError(ctx, err)
	}
	mine, err := p.askLock(ctx, tx, &p.ownBackends)
	if err != nil {
		return lockError(err, "the probe's question for a lock")
	}
	if err := p.prepare(ctx, tx); err != nil {
		return err
	}
	theirs, err := p.askPool(ctx)
	if err != nil {
		return lockError(err, "the pool's question for a lock")
	}
	if err := tx.Rollback(ctx); err != nil {
		return unanswered(err, "the end of the probe's transaction")
	}
	freed, err := p.askPool(ctx)
	if err != nil {
		return lockError(err, "the pool's second question for a lock")
	}
	if !mine || theirs || !freed {
		return &Error{Kind: ErrLocks, Reason: "a lock held by one connection was granted to another, or was not freed; " +
			"do the pool's connections all lead to one PostgreSQL primary?"}
	}
	return nil
}

// askLock asks for the lock and notes which backend answered.
func (p *prober) askLock(ctx context.Context, db dbsqlc.DBTX, backends *[]int32) (granted bool, err error) {
	answer, err := dbsqlc.New().ProbeLock(ctx, p.through(db), p.lock)
	if err == nil {
		*backends = append(*backends, answer.Backend)
	}
	return answer.Granted, err
}

func (p *prober) askPool(ctx context.Context) (granted bool, err error) {
	return p.askLock(ctx, p.pooled, &p.backends)
}

func (p *prober) askOwn(ctx context.Context) (granted bool, err error) {
	return p.askLock(ctx, p.own, &p.ownBackends)
}

// connect opens a connection beside the pool in the pool's own way: TLS, rotating passwords and all.
func (c *Client) connect(ctx context.Context, edits ...func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	config := c.pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	for _, edit := range edits {
		edit(config.ConnConfig)
	}
	return pgx.ConnectConfig(ctx, config.ConnConfig)
}
