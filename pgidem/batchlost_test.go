package pgidem

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// A statement raises, and the connection is lost before the server has said that it is ready again: nothing was committed.
func TestBatchLostBehindAnError(t *testing.T) {
	for mode, queryMode := range queryModes {
		t.Run(mode, func(t *testing.T) {
			b := setup(t, withPool(inMode(queryMode)))
			b.warmBatch()
			cut := b.faults.Cut(faultconn.Point{Side: faultconn.Server, Type: faultconn.ErrorResponse, Tag: "22012", When: faultconn.After})
			_, err := DoBatch(b.Context(), b.client, b.key, "", func(batch *pgx.Batch) {
				b.effectBatch(batch)
				batch.Queue("SELECT 1 / n FROM (SELECT 0 AS n OFFSET 0) zero")
			})
			if !cut.Fired() || sqlState(err) != divisionByZero || errors.Is(err, ErrTxEnded) {
				t.Errorf("cut %v, got %v; want division by zero", cut.Fired(), err)
			}
			b.wantEffects(0)
			b.wantState("")
		})
	}
}

// The same answers in every query mode where the answer to the only round trip is lost.
func TestLostBatch(t *testing.T) {
	for name, point := range map[string]faultconn.Point{
		"NeverSent":               atCommit(faultconn.Before),
		"HalfSent":                atCommit(faultconn.Mid),
		"RowAnswered":             {Side: faultconn.Server, Tag: "INSERT", When: faultconn.Before},
		"AnsweredButNotDelivered": {Side: faultconn.Server, Tag: "COMMIT", When: faultconn.Before},
		"AnswerDeliveredThenCut":  {Side: faultconn.Server, Tag: "COMMIT", When: faultconn.After},
	} {
		for mode, queryMode := range queryModes {
			t.Run(name+"/"+mode, func(t *testing.T) {
				b := setup(t, withPool(func(p *pgxpool.Config) { p.ConnConfig.DefaultQueryExecMode = queryMode }))
				b.warmBatch()
				b.faults.RefuseCancel(true)
				cut := b.faults.Cut(point)
				got, err := b.doBatch("done")
				if !cut.Fired() {
					b.Fatal("the cut did not strike")
				}
				b.wantResult(got, err, "done", false)
				b.wantEffects(1)
				b.wantState(stateSucceeded)
				again, err := b.doBatch("again")
				b.wantResult(again, err, "done", true)
			})
		}
	}
}

// A batch that is still on its way when it is settled: "absent" is not final for it.
func TestLateBatch(t *testing.T) {
	late := func(t *testing.T, broken bool) (b *bundle, arrive func(), got Result[string], err error) {
		t.Helper()
		b = setup(t, withSetting("application_name", "under test"))
		b.must(b.pool.Exec(b.Context(), `CREATE TABLE divisor (n int); INSERT INTO divisor VALUES (1)`))
		b.warmBatch()
		b.client.config.FinishBound = time.Second // the warm-up may take as long as it likes
		b.faults.RefuseCancel(true)
		hole := b.faults.BlackHole(atCommit(faultconn.Before))
		if broken {
			b.must(b.observe().Exec(b.Context(), "UPDATE divisor SET n = 0"))
		}
		got, err = DoBatch(b.Context(), b.client, b.key, "done", func(batch *pgx.Batch) {
			b.effectBatch(batch)
			batch.Queue("SELECT 1 / n FROM divisor")
		})
		if !hole.Fired() {
			b.Fatal("the batch was not held")
		}
		b.wantState(map[bool]string{true: "", false: stateSucceeded}[broken])
		b.must(b.observe().Exec(b.Context(), "UPDATE divisor SET n = 1"))
		return b, hole.Heal, got, err
	}
	t.Run("RunAgainAndDone", func(t *testing.T) {
		b, arrive, got, err := late(t, false)
		b.wantResult(got, err, "done", false)
		arrive() // and meets the row of the second run
		b.arrived()
		b.wantEffects(1)
	})
	t.Run("RunAgainAndFailed", func(t *testing.T) {
		b, arrive, _, err := late(t, true)
		b.wantError(err, ErrUnknownOutcome)
		if sqlState(err) != "22012" {
			b.Errorf("got %v, want the second run's error as the cause", err)
		}
		b.wantEffects(0)
		arrive() // what an error that says "nothing was committed" would have denied
		b.arrived()
		b.wantEffects(1)
		again, err := b.doBatch("again")
		b.wantResult(again, err, "done", true)
	})
}

// The caller's context ends while the batch is on its way: also that error must not say that nothing was committed.
func TestLateBatchOfACallerThatIsGone(t *testing.T) {
	b := setup(t, withSetting("application_name", "under test"))
	b.warmBatch()
	b.client.config.FinishBound = time.Second // the warm-up may take as long as it likes
	b.faults.RefuseCancel(true)
	hole := b.faults.BlackHole(atCommit(faultconn.Before))
	ctx, cancel := context.WithCancel(b.Context())
	calling := async(b, func() (Result[string], error) { return DoBatch(ctx, b.client, b.key, "done", b.effectBatch) })
	b.reached(hole)
	cancel()
	a := <-calling
	b.wantError(a.err, ErrUnknownOutcome)
	hole.Heal()
	b.arrived()
	b.wantEffects(1)
}

// arrived waits until the server has worked off the connection that the client gave up.
func (b *bundle) arrived() {
	b.Helper()
	b.until("the lost connection has ended", `SELECT count(*) = $1 FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'under test'`, 1)
}

// Whoever does not wait is not kept by a batch that takes its time.
func TestNoWaitBesideALongBatch(t *testing.T) {
	b := setup(t)
	b.warmBatch()
	hold := b.faults.Hold(atCommit(faultconn.Before))
	first := async(b, func() (Result[string], error) { return b.doBatch("first") })
	b.reached(hold)
	_, err := b.doBatch("second", &TxOpts{WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	hold.Release()
	a := <-first
	b.wantResult(a.Result, a.err, "first", false)
}

// Without any lock the unique row decides between batches and transactions that really run side by side.
func TestG1WithoutLocksForBatches(t *testing.T) {
	b := setup(t)
	for range 20 {
		b.key = Key{Scope: "nolocks", ID: NewID()}
		met := newRendezvous(2)
		other := b.clientOfItsOwn()
		withoutLocks(b.client)
		withoutLocks(other)
		running := async(b, func() (Result[string], error) {
			return DoTx(b.Context(), other, b.key, func(ctx context.Context, tx Tx) (string, error) {
				_, err := b.effect("")(ctx, tx)
				met.wait(ctx)
				return "tx", err
			})
		})
		met.wait(b.Context()) // the transaction has written, and has not saved
		batch, err := b.doBatch("batch")
		a := <-running
		if errors.Join(err, a.err) != nil || batch.Value != a.Value || batch.Replayed == a.Replayed {
			b.Fatalf("the batch got %+v, %v, the transaction %+v, %v", batch, err, a.Result, a.err)
		}
		b.wantEffects(1)
	}
}
