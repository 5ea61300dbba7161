package pgidem

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

var errGone = errors.New("the caller has gone")

// A context that ends at each point of a call. Up to fn's return, nothing is committed and the cause is told; from
// then on the outcome is saved and told. The key is usable afterwards in every case.
func TestCancelledAtEachPoint(t *testing.T) {
	save := faultconn.Point{SQL: "INSERT INTO idempotency_keys"}
	for name, c := range map[string]struct {
		hold  faultconn.Point // where the call is when its context ends
		saved bool
	}{
		"BeforeTheClaim":        {hold: faultconn.Point{SQL: "pg_try_advisory_xact_lock"}},
		"ClaimUnanswered":       {hold: faultconn.Point{Side: faultconn.Server, Tag: "BEGIN"}},
		"InFnBeforeItsWrite":    {hold: faultconn.Point{SQL: "INSERT INTO effects"}},
		"InFnWriteUnanswered":   {hold: faultconn.Point{Side: faultconn.Server, Tag: "INSERT"}},
		"BeforeTheSave":         {hold: save, saved: true},
		"SaveHalfSent":          {hold: faultconn.Point{SQL: save.SQL, When: faultconn.Mid}, saved: true},
		"SaveUnanswered":        {hold: faultconn.Point{Side: faultconn.Server, Tag: "INSERT", Nth: 2}, saved: true},
		"CommitUnanswered":      {hold: faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"}, saved: true},
		"CommitAnswerDelivered": {hold: faultconn.Point{Side: faultconn.Server, Tag: "COMMIT", When: faultconn.After}, saved: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.warm(b.client, b.pool)
			ctx, cancel := context.WithCancelCause(b.Context())
			hold := b.faults.Hold(c.hold)
			call := async(b, func() (Result[string], error) {
				return DoTx(ctx, b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
					got, err := b.effect("done")(ctx, tx)
					if err != nil {
						err = context.Cause(ctx)
					}
					return got, err
				})
			})
			b.reached(hold)
			cancel(errGone)
			if !c.saved { // it must not wait for the answer
				if a := <-call; !errors.Is(a.err, errGone) {
					b.Errorf("got %+v, %v; want the context's cause", a.Result, a.err)
				}
				hold.Release()
				got, err := DoTx(b.Context(), b.client, b.key, b.effect("next"))
				b.wantResult(got, err, "next", false)
				b.wantEffects(1)
				return
			}
			hold.Release()
			a := <-call
			b.wantResult(a.Result, a.err, "done", false)
			b.wantEffects(1)
		})
	}
}

func TestCancelledBeforeAnything(t *testing.T) {
	b := setup(t)
	ctx, cancel := context.WithCancelCause(b.Context())
	cancel(errGone)
	for name, err := range map[string]error{
		"DoTx":   second(DoTx(ctx, b.client, b.key, b.effect("never"))),
		"Lookup": second(Lookup[string](ctx, b.client, b.key)),
		"Forget": b.client.Forget(ctx, b.key),
		"Probe":  second(b.client.Probe(ctx)),
	} {
		if !errors.Is(err, errGone) {
			b.Errorf("%s: got %v, want the context's cause", name, err)
		}
	}
	b.wantEffects(0)
}

// A context that ends while the call waits: for a connection, for the lock of another process.
func TestCancelledWhileWaiting(t *testing.T) {
	for name, where := range map[string]func(*bundle) (release, reached func()){
		"ForTheLock": func(b *bundle) (func(), func()) {
			return b.lockKey(b.key), func() { b.lockAwaited("the call waits", 1) }
		},
		"ForAConnection": func(b *bundle) (func(), func()) {
			b.must(DoTx(b.Context(), b.client, Key{"s", "probed"}, b.effectOf("probed")))
			conn, err := b.pool.Acquire(b.Context())
			b.must(conn, err)
			return conn.Release, func() { b.joined(0) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withPoolOfOne())
			ctx, cancel := context.WithCancelCause(b.Context())
			release, reached := where(b)
			call := async(b, func() (Result[string], error) { return DoTx(ctx, b.client, b.key, b.effect("never")) })
			reached()
			cancel(errGone)
			if a := <-call; !errors.Is(a.err, errGone) {
				b.Errorf("got %+v, %v; want the context's cause", a.Result, a.err)
			}
			release()
			got, err := DoTx(b.Context(), b.client, b.key, b.effect("next"))
			b.wantResult(got, err, "next", false)
			b.wantEffects(1)
		})
	}
}

// A caller that goes while COMMIT waits does not turn it into a doubtful one: the library has its own bound. The context
// itself is asked as well, because how soon pgx follows one that has ended is chance.
func TestCallerGoesDuringCommit(t *testing.T) {
	commits := make(commitContexts, 1)
	b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.Tracer = commits }))
	b.warm(b.client, b.pool)
	<-commits
	b.faults.Reset()
	hold := b.faults.Hold(faultconn.Point{Side: faultconn.Server, Tag: "COMMIT"})
	ctx, cancel := context.WithCancel(b.Context())
	call := async(b, func() (Result[string], error) { return DoTx(ctx, b.client, b.key, b.effect("done")) })
	b.reached(hold)
	cancel()
	if commit := <-commits; commit.Err() != nil {
		b.Errorf("COMMIT follows the caller's context, which has ended: %v", commit)
	}
	hold.Release()
	a := <-call
	b.wantResult(a.Result, a.err, "done", false)
	if n := b.faults.Counts().Connections; n != 0 {
		b.Errorf("%d connections were opened: the COMMIT was given up and settled instead of waited for", n)
	}
}

// commitContexts gets the context of each batch that ends with COMMIT.
type commitContexts chan context.Context

func (c commitContexts) TraceBatchStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	if sent := data.Batch.QueuedQueries; sent[len(sent)-1].SQL == "COMMIT" {
		c <- ctx
	}
	return ctx
}

func (commitContexts) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (commitContexts) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

func (commitContexts) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (commitContexts) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
