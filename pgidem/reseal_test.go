package pgidem

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// resealed is a bundle with a scope of saved answers, all sealed by generation 0.
type resealed struct {
	*bundle
	sealer *toySealer
	keys   []Key // in the order of their IDs
}

// setupResealed saves n results, and behind them one failure.
func setupResealed(t *testing.T, n int, options ...option) *resealed {
	t.Helper()
	r := &resealed{sealer: new(toySealer)}
	r.bundle = setup(t, append(options, withSealer(r.sealer))...)
	for i := range n {
		key := Key{"acct_42/charges", fmt.Sprintf("id-%03d", i)}
		r.keys = append(r.keys, key)
		r.wantAnswer(key, false)
	}
	r.key = Key{"acct_42/charges", "no"}
	r.keys = append(r.keys, r.key)
	r.wantAnswer(r.key, false)
	return r
}

// wantAnswer checks what a caller gets: the key's ID, and for "no" a failure.
func (r *resealed) wantAnswer(key Key, replayed bool) {
	r.Helper()
	result, err := DoTx(r.Context(), r.client, key, func(context.Context, Tx) (string, error) {
		if key.ID == "no" {
			return "", Permanent(&Failure{Code: "declined", Message: key.ID})
		}
		return key.ID, nil
	})
	if key.ID == "no" {
		var failure *Failure
		if !errors.As(err, &failure) || failure.Message != key.ID || result.Replayed != replayed {
			r.Errorf("got %+v, %v, want the failure, replayed %v", result, err, replayed)
		}
		return
	}
	r.wantResult(result, err, key.ID, replayed)
}

// wantSeals checks how many answers of the scope carry a seal of each generation.
func (r *resealed) wantSeals(want string) {
	r.Helper()
	got := one[string](r.bundle, r.observe(), `SELECT coalesce(string_agg(g || ':' || n, ' ' ORDER BY g), '') FROM (
		SELECT chr(get_byte(coalesce(result, error), 0)) AS g, count(*) AS n FROM idempotency_keys WHERE scope = $1 GROUP BY 1) AS seals`,
		r.key.Scope)
	if got != want {
		r.Errorf("the seals of the scope are %q (generation:answers), want %q", got, want)
	}
}

func (r *resealed) wantReport(got ResealReport, err error, want ResealReport) {
	r.Helper()
	if err != nil || got != want {
		r.Errorf("got %+v, %v; want %+v", got, err, want)
	}
}

func TestReseal(t *testing.T) {
	r := setupResealed(t, 4)
	other := Key{"acct_43/charges", "id-000"}
	r.must(DoTx(r.Context(), r.client, other, r.effect("other")))
	expired := Key{r.key.Scope, "expired"}
	r.must(DoTx(r.Context(), r.client, expired, r.effect("expired")))
	r.must(r.observe().Exec(r.Context(), `UPDATE idempotency_keys SET created_at = now() - interval '2 h',
		finished_at = now() - interval '2 h', expires_at = now() - interval '1 h' WHERE id = 'expired'`))
	r.must(r.observe().Exec(r.Context(), `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, finished_at, expires_at)
		VALUES ($1, 'a-mark', 'mark', 'succeeded', gen_random_uuid(), 1, clock_timestamp(), clock_timestamp() + interval '1 h')`, r.key.Scope))

	r.sealer.generation.Store(1)
	var progress []ResealReport
	report, err := r.client.Reseal(r.Context(), r.key.Scope, &ResealOpts{
		Batch: 2, Progress: func(p ResealReport) { progress = append(progress, p) },
	})
	r.wantReport(report, err, ResealReport{Resealed: 5, Last: "no"})
	if len(progress) != 3 || progress[0] != (ResealReport{Resealed: 2, Last: "id-001"}) || progress[2] != report {
		r.Errorf("the progress was %+v", progress)
	}
	r.must(r.observe().Exec(r.Context(), "DELETE FROM idempotency_keys WHERE id = 'a-mark'"))
	r.wantSeals("0:1 1:5")
	for _, key := range r.keys {
		r.wantAnswer(key, true)
	}
	if record, err := Lookup[string](r.Context(), r.client, r.key); record.State != "failed" || record.Failure.Message != "no" {
		r.Errorf("Lookup found %+v, %v", record, err)
	}

	report, err = r.client.Reseal(r.Context(), r.key.Scope)
	r.wantReport(report, err, ResealReport{Kept: 5, Last: "no"})
	report, err = r.client.Reseal(r.Context(), "nobody's")
	r.wantReport(report, err, ResealReport{})
	if seal := one[string](r.bundle, r.observe(), "SELECT chr(get_byte(result, 0)) FROM idempotency_keys WHERE scope = $1", other.Scope); seal != "0" {
		r.Errorf("another scope's answer has the seal %s", seal)
	}
}

// One lost answer does not keep the others from being resealed; a service that is down does, and the pass goes on later.
func TestResealMeetsErrors(t *testing.T) {
	r := setupResealed(t, 6)
	r.sealer.generation.Store(1)
	down := true
	r.sealer.onReseal = func(_ context.Context, key Key) error {
		switch {
		case key == r.keys[1]:
			return &Error{Key: key, Kind: ErrResult}
		case key == r.keys[4] && down:
			return errSealer
		}
		return nil
	}
	report, err := r.client.Reseal(r.Context(), r.key.Scope, &ResealOpts{Batch: 2})
	if want := (ResealReport{Resealed: 3, Lost: 1, Last: "id-003"}); !errors.Is(err, errSealer) || report != want {
		r.Errorf("got %+v, %v; want %+v and the sealer's error", report, err, want)
	}
	down = false
	report, err = r.client.Reseal(r.Context(), r.key.Scope, &ResealOpts{After: report.Last})
	r.wantReport(report, err, ResealReport{Resealed: 3, Last: "no"})
	r.wantSeals("0:1 1:6")
	for _, key := range r.keys {
		r.wantAnswer(key, true)
	}
}

// What happens to a row between reading and writing it wins over the pass.
func TestResealLeavesChangedRowsAlone(t *testing.T) {
	r := setupResealed(t, 5)
	pool := r.observe()
	holder, err := pool.Begin(r.Context())
	r.must(nil, err)
	r.Cleanup(func() { _ = holder.Rollback(context.WithoutCancel(r.Context())) })
	later := &toySealer{}
	later.generation.Store(2)
	laterClient, _, _ := r.newClient(withSealer(later))

	meanwhile := map[Key]func(){
		r.keys[0]: func() { r.must(nil, r.client.Forget(r.Context(), r.keys[0])) },
		r.keys[1]: func() {
			r.must(nil, r.client.Forget(r.Context(), r.keys[1]))
			r.must(DoTx(r.Context(), r.client, r.keys[1], r.effect("a new life")))
		},
		r.keys[2]: func() { // expired, and claimed anew before the pass comes to write
			r.must(pool.Exec(r.Context(), `UPDATE idempotency_keys SET created_at = now() - interval '2 h',
				finished_at = now() - interval '2 h', expires_at = now() - interval '1 h' WHERE id = $1`, r.keys[2].ID))
			r.must(DoTx(r.Context(), r.client, r.keys[2], r.effect("a new life")))
		},
		r.keys[3]: func() { // somebody's transaction that does not end soon: it is not waited for
			r.must(holder.Exec(r.Context(), "SELECT FROM idempotency_keys WHERE id = $1 FOR UPDATE", r.keys[3].ID))
		},
		r.keys[5]: func() { // a pass of a process that rotates once more
			r.must(laterClient.Reseal(r.Context(), r.key.Scope, &ResealOpts{After: r.keys[4].ID}))
		},
	}
	r.sealer.generation.Store(1)
	r.sealer.onReseal = func(_ context.Context, key Key) error {
		if change := meanwhile[key]; change != nil {
			change()
		}
		return nil
	}
	report, err := r.client.Reseal(r.Context(), r.key.Scope)
	r.wantReport(report, err, ResealReport{Resealed: 1, Missed: 5, Last: "no"})
	r.wantSeals("0:1 1:3 2:1") // also the new lives as they were saved, and what the later pass has done

	r.sealer.onReseal = nil
	r.key = r.keys[0]
	r.wantState("")
	for _, key := range r.keys[1:3] {
		result, err := DoTx(r.Context(), r.client, key, r.effect("never"))
		r.wantResult(result, err, "a new life", true)
	}
	for _, key := range r.keys[3:] {
		r.wantAnswer(key, true)
	}
}

func TestResealIsInterruptedAndGoesOn(t *testing.T) {
	r := setupResealed(t, 6)
	r.sealer.generation.Store(1)
	stop := errors.New("the maintenance window is over")
	ctx, cancel := context.WithCancelCause(r.Context())
	r.sealer.onReseal = func(ctx context.Context, key Key) error {
		if key == r.keys[3] {
			cancel(stop)
		}
		return ctx.Err()
	}
	report, err := r.client.Reseal(ctx, r.key.Scope, &ResealOpts{Batch: 2})
	if want := (ResealReport{Resealed: 2, Last: "id-001"}); !errors.Is(err, stop) || report != want {
		r.Errorf("got %+v, %v; want %+v and the context's cause", report, err, want)
	}
	r.wantSeals("0:5 1:2")
	for _, key := range r.keys { // old and new seals side by side
		r.wantAnswer(key, true)
	}
	report, err = r.client.Reseal(r.Context(), r.key.Scope, &ResealOpts{Batch: 2, After: report.Last})
	r.wantReport(report, err, ResealReport{Resealed: 5, Last: "no"})
	r.wantSeals("1:7")
}

// Callers do not notice passes, however many there are at once.
func TestResealAmongReplays(t *testing.T) {
	r := setupResealed(t, 8)
	var callers sync.WaitGroup
	passes, done := context.WithCancel(r.Context())
	defer done()
	for _, key := range r.keys {
		callers.Go(func() {
			for passes.Err() == nil {
				r.wantAnswer(key, true)
			}
		})
	}
	for generation := range 5 {
		r.sealer.generation.Store(int64(generation) + 1)
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				report, err := r.client.Reseal(r.Context(), r.key.Scope, &ResealOpts{Batch: 3})
				if sum := report.Resealed + report.Kept + report.Missed; err != nil || sum != len(r.keys) {
					r.Errorf("got %+v, %v; want %d answers dealt with", report, err, len(r.keys))
				}
			})
		}
		both.Wait()
		r.must(r.client.Reseal(r.Context(), r.key.Scope)) // what one of them had in its hands when the other came past
		r.wantSeals(fmt.Sprintf("%d:%d", generation+1, len(r.keys)))
	}
	done()
	callers.Wait()
}

// The old secret is destroyed when a pass has ended, so what it has written must survive a crash.
func TestResealRaisesSynchronousCommit(t *testing.T) {
	r := setupResealed(t, 1, withSetting("synchronous_commit", "off"))
	pool := r.observe()
	r.must(pool.Exec(r.Context(), "CREATE TABLE seen (setting text)"))
	r.must(pool.Exec(r.Context(), `CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$`))
	r.must(pool.Exec(r.Context(), `CREATE CONSTRAINT TRIGGER see AFTER UPDATE ON idempotency_keys
		DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION see()`))
	r.sealer.generation.Store(1)
	r.must(r.client.Reseal(r.Context(), r.key.Scope))
	if got := one[string](r.bundle, pool, "SELECT string_agg(setting, ' ') FROM seen"); got != "on on" {
		r.Errorf("synchronous_commit was %q at COMMIT, want on for both answers", got)
	}
}

func TestResealRefuses(t *testing.T) {
	r := setupResealed(t, 1)
	plainClient, _, _ := r.newClient()
	changing, _, _ := r.newClient(withSealer(changingSealer{r.sealer}))
	closed, _, _ := r.newClient(withSealer(r.sealer))
	r.must(nil, closed.Close(r.Context()))
	r.sealer.generation.Store(1)
	for name, c := range map[string]struct {
		client *Client
		scope  string
		opts   []*ResealOpts
		kind   error
	}{
		"NoSealer":     {plainClient, r.key.Scope, nil, ErrConfig},
		"OtherAnswers": {changing, r.key.Scope, nil, ErrConfig},
		"Closed":       {closed, r.key.Scope, nil, ErrClosed},
		"NoScope":      {r.client, "", nil, ErrInvalidKey},
		"LongScope":    {r.client, strings.Repeat("s", 256), nil, ErrInvalidKey},
		"Batch":        {r.client, r.key.Scope, []*ResealOpts{{Batch: -1}}, ErrConfig},
		"AfterNotUTF8": {r.client, r.key.Scope, []*ResealOpts{{After: "\xff"}}, ErrConfig},
		"TwoOpts":      {r.client, r.key.Scope, []*ResealOpts{nil, nil}, ErrConfig},
	} {
		if report, err := c.client.Reseal(r.Context(), c.scope, c.opts...); !errors.Is(err, c.kind) || report != (ResealReport{}) {
			r.Errorf("%s: got %+v, %v; want %v", name, report, err, c.kind)
		}
	}
	r.wantSeals("0:2")

	r.must(r.observe().Exec(r.Context(), "ALTER TABLE idempotency_keys RENAME TO hidden"))
	if _, err := r.client.Reseal(r.Context(), r.key.Scope); !errors.Is(err, ErrSchema) {
		r.Errorf("without the table: got %v, want %v", err, ErrSchema)
	}
	r.pool.Close()
	if _, err := r.client.Reseal(r.Context(), r.key.Scope); !errors.Is(err, ErrUnavailable) {
		r.Errorf("without connections: got %v, want %v", err, ErrUnavailable)
	}
}

// changingSealer makes another answer of what it reseals.
type changingSealer struct{ *toySealer }

func (s changingSealer) Reseal(ctx context.Context, key Key, part Part, _ []byte) ([]byte, error) {
	return s.Seal(ctx, key, part, []byte(`"another"`))
}
