package pgidem

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/devpg"
)

// The old secret is destroyed when a pass has returned nil. A pass whose COMMIT was not answered may have left answers that
// can be read here and are on no standby; the next one does not vouch for them before the standby has them.
func TestResealVouchesForNothingWithoutTheStandby(t *testing.T) {
	t.Parallel()
	db := devpg.Private(t)
	pool := db.Pool(t)
	if _, err := pool.Exec(t.Context(), createEffects); err != nil {
		t.Fatal(err)
	}
	pool.Close()
	standby := db.AbsentStandby(t)
	sealer := new(toySealer)
	b := besideStandby(t, db, withSealer(sealer))
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("done")))
	b.client.config.FinishBound = time.Second
	sealer.generation.Store(1)
	standby.Leave()

	if _, err := b.client.Reseal(b.Context(), b.key.Scope); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("the first pass: got %v, want %v", err, ErrUnknownOutcome)
	}
	b.until("the wait for the standby was cancelled", `SELECT coalesce((SELECT chr(get_byte(result, 0)) = '1'
		FROM idempotency_keys WHERE scope = $1 AND id = $2), false)`, b.key.Scope, b.key.ID)
	for _, opts := range []*ResealOpts{nil, {After: b.key.ID}} { // also one that goes on where everything was done
		report, err := b.client.Reseal(b.Context(), b.key.Scope, opts)
		if !errors.Is(err, ErrUnknownOutcome) || report.Last != b.key.ID {
			t.Errorf("with the standby away: got %+v, %v; want %v", report, err, ErrUnknownOutcome)
		}
	}

	standby.Return()
	b.until("nobody holds the row", "SELECT ("+inSyncRep+") = ''")
	report, err := b.client.Reseal(b.Context(), b.key.Scope)
	if want := (ResealReport{Kept: 1, Last: b.key.ID}); err != nil || report != want {
		t.Errorf("with the standby back: got %+v, %v; want %+v", report, err, want)
	}
}

// Where the COMMIT of a batch is lost, or that of the proof, the next pass commits a write of its own before it returns nil.
func TestResealProvesWhatItKeeps(t *testing.T) {
	r := setupResealed(t, 2)
	r.sealer.generation.Store(1)
	for pass, want := range []ResealReport{{}, {Kept: 3, Last: "no"}} {
		r.faults.Cut(lostAnswer)
		report, err := r.client.Reseal(r.Context(), r.key.Scope)
		if !errors.Is(err, ErrUnknownOutcome) || report != want {
			r.Errorf("pass %d: got %+v, %v; want %+v and %v", pass, report, err, want, ErrUnknownOutcome)
		}
	}
	commits := r.commits(func() {
		report, err := r.client.Reseal(r.Context(), r.key.Scope, &ResealOpts{Batch: 1})
		r.wantReport(report, err, ResealReport{Kept: 3, Last: "no"})
	})
	if commits != 1 {
		r.Errorf("a pass that kept everything committed %d times, want once", commits)
	}

	r.sealer.generation.Store(2)
	commits = r.commits(func() {
		report, err := r.client.Reseal(r.Context(), r.key.Scope)
		r.wantReport(report, err, ResealReport{Resealed: 3, Last: "no"})
	})
	if commits != 1 {
		r.Errorf("a pass with one batch committed %d times, want once", commits)
	}
	r.wantSeals("2:3")
}

// commits counts the rows' versions that do makes, as transactions.
func (r *resealed) commits(do func()) int {
	r.Helper()
	const newest = "SELECT coalesce(array_agg(DISTINCT xmin::text), '{}') FROM idempotency_keys WHERE scope = $1"
	pool := r.observe()
	before := one[[]string](r.bundle, pool, newest, r.key.Scope)
	do()
	return one[int](r.bundle, pool, `SELECT count(DISTINCT xmin::text)::int FROM idempotency_keys
		WHERE scope = $1 AND NOT xmin::text = ANY ($2)`, r.key.Scope, before)
}

// A row that somebody holds is not waited for, but then nothing proves what was kept.
func TestResealWithoutARowToProve(t *testing.T) {
	r := setupResealed(t, 0)
	holder, err := r.observe().Begin(r.Context())
	r.must(nil, err)
	r.Cleanup(func() { _ = holder.Rollback(context.WithoutCancel(r.Context())) })
	r.must(holder.Exec(r.Context(), "SELECT FROM idempotency_keys WHERE scope = $1 FOR UPDATE", r.key.Scope))
	report, err := r.client.Reseal(r.Context(), r.key.Scope)
	if want := (ResealReport{Kept: 1, Last: "no"}); !errors.Is(err, ErrUnknownOutcome) || report != want {
		r.Errorf("got %+v, %v; want %+v and %v", report, err, want, ErrUnknownOutcome)
	}
	r.must(nil, holder.Rollback(r.Context()))
	report, err = r.client.Reseal(r.Context(), r.key.Scope)
	r.wantReport(report, err, ResealReport{Kept: 1, Last: "no"})
}

// A pass that waits for a connection goes when its caller does, with what it had.
func TestResealLeavesThePoolsQueue(t *testing.T) {
	r := setupResealed(t, 1)
	r.sealer.generation.Store(1)
	stop := errors.New("the maintenance window is over")
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	r.sealer.onReseal = func(_ context.Context, key Key) error {
		if key == r.keys[1] {
			r.takeConnections()
			cancel(stop)
		}
		return nil
	}
	pass := async(r.bundle, func() (Result[ResealReport], error) {
		report, err := r.client.Reseal(ctx, r.key.Scope, &ResealOpts{After: "a"})
		return Result[ResealReport]{Value: report}, err
	})
	select {
	case a := <-pass:
		if want := (ResealReport{Last: "a"}); !errors.Is(a.err, stop) || a.Value != want {
			r.Errorf("got %+v, %v; want %+v and the context's cause", a.Value, a.err, want)
		}
	case <-time.After(10 * time.Second): // FinishBound is longer
		r.Error("the pass still waits for a connection")
	}
}

// takeConnections leaves none in the pool until the test ends.
func (r *resealed) takeConnections() {
	for range r.pool.Config().MaxConns {
		conn, err := r.pool.Acquire(r.Context())
		if err != nil {
			r.Error(err)
			return
		}
		r.Cleanup(conn.Release)
	}
}

// An outcome that is unknown stays so when the caller goes too.
func TestResealSaysUnknownToThoseWhoLeave(t *testing.T) {
	r := setupResealed(t, 0)
	r.sealer.generation.Store(1)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	hold := r.faults.Hold(lostAnswer)
	pass := async(r.bundle, func() (Result[ResealReport], error) {
		report, err := r.client.Reseal(ctx, r.key.Scope)
		return Result[ResealReport]{Value: report}, err
	})
	r.reached(hold)
	cancel()
	hold.Cut()
	if a := <-pass; !errors.Is(a.err, ErrUnknownOutcome) || a.Value != (ResealReport{}) {
		r.Errorf("got %+v, %v; want %v", a.Value, a.err, ErrUnknownOutcome)
	}
}

// A COMMIT that the server refuses is no riddle.
func TestResealRefusedAtCommit(t *testing.T) {
	r := setupResealed(t, 1)
	pool := r.observe()
	r.must(pool.Exec(r.Context(), `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END $$`))
	r.must(pool.Exec(r.Context(), `CREATE CONSTRAINT TRIGGER refuse AFTER UPDATE ON idempotency_keys
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`))
	r.sealer.generation.Store(1)
	report, err := r.client.Reseal(r.Context(), r.key.Scope, &ResealOpts{After: "a"})
	if want := (ResealReport{Last: "a"}); !errors.Is(err, ErrUnavailable) || errors.Is(err, ErrUnknownOutcome) || report != want {
		r.Errorf("got %+v, %v; want %+v and %v", report, err, want, ErrUnavailable)
	}
	r.wantSeals("0:2")
}

// What an earlier pass has reached is not forgotten by one that does not begin.
func TestResealKeepsItsPlace(t *testing.T) {
	r := setupResealed(t, 0)
	r.must(nil, r.client.Close(r.Context()))
	report, err := r.client.Reseal(r.Context(), r.key.Scope, &ResealOpts{After: "id-003"})
	if want := (ResealReport{Last: "id-003"}); !errors.Is(err, ErrClosed) || report != want {
		r.Errorf("got %+v, %v; want %+v and %v", report, err, want, ErrClosed)
	}
}
