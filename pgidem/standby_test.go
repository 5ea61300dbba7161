package pgidem

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/internal/faultconn"
)

// G3 and G7 where a COMMIT waits for a synchronous standby that is away: PostgreSQL has written the commit record, shows
// the row to nobody and keeps the key's lock until the standby answers, or until somebody cancels that wait.
//
// The two kinds of standby are one that never existed, and pg_receivewal, which is stopped and started again. The
// server is the test's own, since the setting is the whole server's; so the cases run one after the other.
func TestSynchronousStandby(t *testing.T) {
	t.Parallel()
	db := devpg.Private(t)
	pool := db.Pool(t)
	if _, err := pool.Exec(t.Context(), createEffects); err != nil {
		t.Fatal(err)
	}
	pool.Close()
	for kind, begin := range map[string]func(testing.TB) *devpg.Standby{"Absent": db.AbsentStandby, "Receiver": db.Receiver} {
		t.Run(kind, func(t *testing.T) {
			standby := begin(t)
			for name, test := range map[string]func(*bundle, *devpg.Standby){
				"CutWhileItWaits":       cutWhileItWaits,
				"BoundPasses":           boundPasses,
				"BoundPassesAndCancels": boundPassesAndCancels,
				"WaitCancelled":         waitCancelled,
				"CutAndWaitCancelled":   cutAndWaitCancelled,
				"LostFailure":           lostFailureWaits,
			} {
				t.Run(name, func(t *testing.T) { test(besideStandby(t, db), standby) })
			}
		})
	}
	t.Run("SynchronousCommit", func(t *testing.T) {
		standby := db.AbsentStandby(t) // a receiver would never answer remote_apply
		for _, setting := range []string{"off", "local", "remote_write", "on", "remote_apply"} {
			t.Run(setting, func(t *testing.T) {
				b := besideStandby(t, db, withSetting("synchronous_commit", setting))
				first, _ := b.runToSyncRep(standby)
				b.unanswered(first)
				standby.Return()
				a := <-first
				b.wantResult(a.Result, a.err, "done", false)
			})
		}
	})
}

// A server that has become a hot standby, as the old primary does behind a switchover: clients that have worked with it are still there,
// and new ones are led to it. Nothing runs, and the same keys run when it is a primary again.
func TestHotStandby(t *testing.T) {
	t.Parallel()
	db := devpg.Restartable(t)
	b := &bundle{T: t, db: db, key: Key{Scope: "standby", ID: NewID()}}
	observer := db.Pool(t)
	b.must(observer.Exec(b.Context(), createEffects))
	before, pool, _ := b.newClient(withConfig(patience), ownPing)
	b.must(DoTx(b.Context(), before, Key{"before", NewID()}, b.warmUp))
	b.ride(before)
	left := one[int](b, observer, "SELECT count(*) FROM effects")

	db.DemoteServer(t)
	for _, ended := range []*pgxpool.Pool{pool, observer} {
		ended.Reset() // its connections ended with the primary
	}
	fresh, _, _ := b.newClient(withConfig(patience), ownPing)
	var calls []*standbyCall
	for of, client := range map[string]*Client{"ClientOfBefore": before, "NewClient": fresh} {
		t.Run(of+"/Probe", func(t *testing.T) {
			if report, err := client.Probe(b.notHung()); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), "standby") {
				t.Errorf("got %+v, %v; want ErrReadOnly, which names the standby", report, err)
			}
		})
		for name, do := range standbyCalls {
			call := &standbyCall{name: of + "/" + name, client: client, key: Key{Scope: "standby", ID: NewID()}, do: do}
			calls = append(calls, call)
			t.Run(call.name, func(t *testing.T) {
				b := &bundle{T: t, db: db, key: call.key}
				_, err := call.do(b, client, &call.runs)
				b.wantError(err, ErrReadOnly)
			})
		}
	}
	if now := one[int](b, observer, "SELECT count(*) FROM effects"); now != left {
		t.Errorf("%d effects, want the %d of before", now, left)
	}

	db.PromoteServer(t)
	for _, call := range calls {
		t.Run(call.name+"/Promoted", func(t *testing.T) {
			b := &bundle{T: t, db: db, key: call.key}
			got, err := call.do(b, call.client, &call.runs)
			b.wantResult(got, err, "done", false)
			b.wantRuns(&call.runs, 1) // and none on the standby
			b.wantEffects(1)
			if got.Attempt > 1 {
				b.Errorf("attempt %d: the standby has kept a claim", got.Attempt)
			}
		})
	}
}

// standbyCall is one key's operation, of one client.
type standbyCall struct {
	name   string
	client *Client
	key    Key
	runs   int
	do     standbyDo
}

type standbyDo func(b *bundle, client *Client, runs *int) (Result[string], error)

// standbyCalls write one effect and count their runs.
var standbyCalls = map[string]standbyDo{
	"DoTx": func(b *bundle, client *Client, runs *int) (Result[string], error) {
		return DoTx(b.notHung(), client, b.key, b.counted(runs))
	},
	"DoTxThatIsARetry": func(b *bundle, client *Client, runs *int) (Result[string], error) {
		return DoTx(b.notHung(), client, b.key, b.counted(runs), &TxOpts{Retry: true})
	},
	"Do": func(b *bundle, client *Client, runs *int) (Result[string], error) {
		return Do(b.notHung(), client, b.key, b.finish(runs))
	},
	"DoStartsWithTx": func(b *bundle, client *Client, runs *int) (Result[string], error) {
		return Do(b.notHung(), client, b.key, b.finish(runs), &DoOpts{StartsWithTx: true})
	},
}

func (b *bundle) counted(runs *int) func(context.Context, Tx) (string, error) {
	return func(ctx context.Context, tx Tx) (string, error) {
		*runs++
		return b.effect("done")(ctx, tx)
	}
}

func (b *bundle) finish(runs *int) func(context.Context, *Op) (string, error) {
	return func(ctx context.Context, op *Op) (string, error) { return FinishTx(ctx, op, "effect", b.counted(runs)) }
}

// besideStandby is setup for one case on the test's own server.
func besideStandby(t *testing.T, db *devpg.Database, options ...option) *bundle {
	t.Helper()
	b := &bundle{T: t, db: db, key: Key{Scope: "standby", ID: NewID()}}
	b.client, b.pool, b.faults = b.newClient(append(options, withConfig(patience))...)
	b.warm(b.client, b.pool)
	return b
}

// patience keeps every bound out of the way of what is waited for here.
func patience(c *Config) {
	c.FinishBound, c.LockTimeout, c.WaitBound = time.Minute, time.Minute, time.Minute
}

// The connection is cut while the COMMIT waits. Nobody is told anything before the standby is back: not the caller that
// settles, not another process. The old backend is left alone, because terminating it would end the wait.
func cutWhileItWaits(b *bundle, standby *devpg.Standby) {
	other, _, _ := b.newClient(withConfig(patience))
	first, runs, old := b.cutInSyncRep(standby)
	second := async(b, func() (Result[string], error) { return DoTx(b.Context(), other, b.key, b.effect("never")) })
	b.lockAwaited("the caller that settles and the other process wait for the lock", 2)
	if still := b.inSyncRep(); still != old {
		b.Errorf("%q waits for the standby, %q did before: the old backend was not left alone", still, old)
	}
	impatient, _, _ := b.newClient()
	_, err := DoTx(b.Context(), impatient, b.key, b.effect("never"), &TxOpts{Retry: true, WaitBound: NoWait})
	b.wantError(err, ErrInProgress)
	b.wantState("")
	b.unanswered(first)
	b.unanswered(second)

	standby.Return()
	a := <-first
	b.wantResult(a.Result, a.err, "done", false)
	a = <-second
	b.wantResult(a.Result, a.err, "done", true)
	b.wantRuns(runs, 1)
	b.wantEffects(1)
}

// FinishBound passes while the COMMIT waits, and so does the bound of settling it; the request to cancel the statement,
// which pgx sends behind a context that ended, is lost too. The old backend waits on, and the same key asks again.
func boundPasses(b *bundle, standby *devpg.Standby) {
	b.faults.RefuseCancel(true)
	b.passBound(standby)
	if b.inSyncRep() == "" {
		b.Error("nobody waits for the standby any more")
	}
	b.wantState("")
	standby.Return()
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
	b.wantResult(got, err, "done", true)
	b.wantEffects(1)
}

// The same where that request arrives: PostgreSQL then commits without the standby, and everybody may see the row.
// Our own call does not acknowledge what it finds, because its barrier waits for the standby again.
func boundPassesAndCancels(b *bundle, standby *devpg.Standby) {
	b.passBound(standby)
	other, _, _ := b.newClient(withConfig(patience))
	got, err := DoTx(b.Context(), other, b.key, b.effect("never")) // "unless the wait for that standby was cancelled"
	b.wantResult(got, err, "done", true)
	standby.Return()
	got, err = DoTx(b.Context(), b.client, b.key, b.effect("never"))
	b.wantResult(got, err, "done", true)
	b.wantEffects(1)
}

// Somebody cancels the wait of a COMMIT whose connection is whole. This is what G3 leaves out: the server answers
// COMMIT, with a warning, and the result is acknowledged to its caller and replayed to others without the standby.
func waitCancelled(b *bundle, standby *devpg.Standby) {
	other, _, _ := b.newClient(withConfig(patience))
	first, runs := b.runToSyncRep(standby)
	b.unanswered(first)
	b.cancelSyncRep()
	a := <-first
	b.wantResult(a.Result, a.err, "done", false)
	got, err := DoTx(b.Context(), other, b.key, b.effect("never"))
	b.wantResult(got, err, "done", true)
	b.wantRuns(runs, 1)
	b.wantEffects(1)
}

// The connection is cut and the wait is cancelled: the row is there for all to see, and not on the standby. Others may
// replay it; the caller that settles its own lost COMMIT is told only behind a barrier, which waits for the standby.
func cutAndWaitCancelled(b *bundle, standby *devpg.Standby) {
	other, _, _ := b.newClient(withConfig(patience))
	first, runs, old := b.cutInSyncRep(standby)
	b.lockAwaited("the caller that settles waits for the lock", 1)
	b.cancelSyncRep()
	b.until("the barrier waits for the standby", "SELECT ("+inSyncRep+") NOT IN ('', $1)", old)
	got, err := DoTx(b.Context(), other, b.key, b.effect("never"))
	b.wantResult(got, err, "done", true)
	b.unanswered(first)

	standby.Return()
	a := <-first
	b.wantResult(a.Result, a.err, "done", false)
	b.wantRuns(runs, 1)
	b.wantEffects(1)
}

// A definite failure is saved by a COMMIT of its own, with the same rules.
func lostFailureWaits(b *bundle, standby *devpg.Standby) {
	b.faults.RefuseCancel(true)
	cause := errors.New("declined")
	standby.Leave()
	hold := b.faults.Hold(atCommit(faultconn.After))
	first := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) { return "", Permanent(cause) })
	})
	b.Cleanup(standby.Return)
	b.reached(hold)
	b.until("COMMIT waits for the standby", "SELECT ("+inSyncRep+") <> ''")
	hold.Cut()
	b.lockAwaited("the caller that settles waits for the lock", 1)
	b.unanswered(first)
	standby.Return()
	var failure *Failure
	if a := <-first; !errors.As(a.err, &failure) || !errors.Is(a.err, cause) {
		b.Errorf("got %v, want the failure with its cause", a.err)
	}
	b.wantState(stateFailed)
}

// runToSyncRep sends the standby away and runs the key until its COMMIT waits for it.
func (b *bundle) runToSyncRep(standby *devpg.Standby) (first <-chan answer[string], runs *int) {
	b.Helper()
	standby.Leave()
	runs = new(int)
	first = async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
			*runs++
			return b.effect("done")(ctx, tx)
		})
	})
	b.Cleanup(standby.Return) // where the test fails, before the call is waited for
	b.until("COMMIT waits for the standby", "SELECT ("+inSyncRep+") <> ''")
	return first, runs
}

// cutInSyncRep also cuts the connection whose COMMIT waits, and says which backend waits there.
func (b *bundle) cutInSyncRep(standby *devpg.Standby) (first <-chan answer[string], runs *int, old string) {
	b.Helper()
	b.faults.RefuseCancel(true)
	hold := b.faults.Hold(atCommit(faultconn.After))
	first, runs = b.runToSyncRep(standby)
	b.reached(hold)
	old = b.inSyncRep()
	hold.Cut()
	return first, runs, old
}

// passBound runs the key while the standby is away, with a bound that is short from now on, and wants the typed error.
func (b *bundle) passBound(standby *devpg.Standby) {
	b.Helper()
	const bound = time.Second
	b.client.config.FinishBound = bound
	begin := time.Now()
	first, _ := b.runToSyncRep(standby)
	select {
	case a := <-first:
		b.wantError(a.err, ErrUnknownOutcome)
		var e *Error
		if !errors.As(a.err, &e) || e.Key != b.key {
			b.Errorf("%v does not have the key to ask again with", a.err)
		}
		// One bound for COMMIT, which is lost then, and at most two to settle it; the rest is for a machine that is busy.
		if took := time.Since(begin); took < bound || took > 3*bound+5*time.Second {
			b.Errorf("the error came after %v, FinishBound is %v", took, bound)
		}
	case <-time.After(20 * time.Second):
		b.Fatal("no error within 20 s")
	}
}

// inSyncRep names the backends that wait for the standby.
const inSyncRep = `SELECT coalesce(string_agg(format('%s since %s', pid, backend_start), ', '), '')
	FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'SyncRep'`

func (b *bundle) inSyncRep() string {
	b.Helper()
	return one[string](b, b.observe(), inSyncRep)
}

func (b *bundle) cancelSyncRep() {
	b.Helper()
	b.must(b.observe().Exec(b.Context(), `SELECT pg_cancel_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event = 'SyncRep'`))
}

// unanswered is asked when the server shows what the call waits for.
func (b *bundle) unanswered(call <-chan answer[string]) {
	b.Helper()
	select {
	case a := <-call:
		b.Fatalf("the call was answered while the standby was away: %+v", a)
	default:
	}
}

func (b *bundle) wantRuns(runs *int, want int) {
	b.Helper()
	if *runs != want {
		b.Errorf("fn ran %d times, want %d", *runs, want)
	}
}
