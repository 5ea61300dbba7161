package pgidem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// crowd is how many callers a contention test has: -short lowers the number, not the cases.
func crowd(n int) int {
	if testing.Short() {
		return n / 8
	}
	return n
}

// 512 callers of one key in each of two processes, each with a pool of 16, while that key's COMMIT is held: all other
// keys go through in both, and then everybody has the one result.
func TestContentionOtherKeysGoOn(t *testing.T) {
	poolOf16 := withPool(func(p *pgxpool.Config) { p.MaxConns = 16 })
	b := setup(t, poolOf16, withConfig(patience))
	other, _, _ := b.newClient(poolOf16, withConfig(patience))
	callers := crowd(512)
	hold := b.faults.Hold(atCommit(faultconn.Before))
	hot := []<-chan answer[string]{b.call(b.client, b.key, "hot")}
	defer hold.Release() // also where the test fails
	b.reached(hold)
	for range callers - 1 {
		hot = append(hot, b.call(b.client, b.key, "never"))
	}
	for range callers {
		hot = append(hot, b.call(other, b.key, "never"))
	}
	b.lockAwaited("the other process waits with one connection, this one with none", 1)
	b.waited(b.client, b.key, callers-1)
	b.waited(other, b.key, callers-1)

	var cold []<-chan answer[string]
	for n := range crowd(512) {
		cold = append(cold, b.call([]*Client{b.client, other}[n%2], Key{"cold", NewID()}, "cold"))
	}
	for _, cold := range cold {
		a := answered(b, cold)
		b.wantResult(a.Result, a.err, "cold", false)
	}
	for _, hot := range hot {
		if len(hot) > 0 {
			b.Fatalf("a caller of the key that is held was answered: %+v", <-hot)
		}
	}
	b.wantState("")

	hold.Release()
	for n, hot := range hot {
		a := answered(b, hot)
		b.wantResult(a.Result, a.err, "hot", n > 0)
	}
	b.wantEffects(1)
	b.wantNoLocks()
}

// 64 hot keys at once, in two processes with 4 callers of each, pools of 8 and two connections that may wait. While
// somebody else holds all keys, exactly those two wait in each process and other keys go on; then every key runs once.
func TestContentionManyHotKeys(t *testing.T) {
	options := []option{
		withPool(func(p *pgxpool.Config) { p.MaxConns = 8 }),
		withConfig(patience), withConfig(func(c *Config) { c.WaitingConns = 2 }),
	}
	b := setup(t, options...)
	other, _, _ := b.newClient(options...)
	const callers = 4
	keys := make([]Key, crowd(64))
	for n := range keys {
		keys[n] = Key{"hot", fmt.Sprintf("hot %d", n)}
	}
	unlock := b.lockKeys(keys...)
	answers := map[Key][]<-chan answer[string]{}
	for _, client := range []*Client{b.client, other} {
		for _, key := range keys {
			for range callers {
				answers[key] = append(answers[key], b.call(client, key, key.ID))
			}
		}
		for _, key := range keys {
			b.waited(client, key, callers-1)
		}
	}
	b.lockAwaited("two connections of each process wait", 4)
	for _, client := range []*Client{b.client, other} {
		for range 20 {
			a := answered(b, b.call(client, Key{"cold", NewID()}, "cold"))
			b.wantResult(a.Result, a.err, "cold", false)
		}
	}
	b.lockAwaited("still two connections of each process wait", 4)
	unlock()
	for _, key := range keys {
		fresh := 0
		for _, caller := range answers[key] {
			a := answered(b, caller)
			if !a.Replayed {
				fresh++
			}
			b.wantResult(a.Result, a.err, key.ID, a.Replayed)
		}
		b.key = key
		b.wantEffects(1)
		if fresh != 1 {
			b.Errorf("%d callers of %v say that they ran it, want 1", fresh, key)
		}
	}
	b.wantNoLocks()
}

// The leader of 200 callers comes to grief while they wait, each with its own deadline. Those whose context ends leave
// with its cause while the leader still runs; of the others one runs the key, unless the leader's failure is definite.
func TestContentionLeadersFate(t *testing.T) {
	boom := errors.New("boom")
	for name, fate := range map[string]func(context.Context, context.CancelFunc) error{
		"Cancelled": func(ctx context.Context, cancel context.CancelFunc) error { cancel(); <-ctx.Done(); return ctx.Err() },
		"Panics":    func(context.Context, context.CancelFunc) error { panic(boom) },
		"Goexit":    func(context.Context, context.CancelFunc) error { runtime.Goexit(); return nil },
		"Fails":     func(context.Context, context.CancelFunc) error { return boom },
		"Permanent": func(context.Context, context.CancelFunc) error { return Permanent(boom) },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(patience))
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			var runs atomic.Int32
			var stay []<-chan answer[string]
			led := make(chan struct{})
			go func() {
				defer close(led)
				defer func() { _ = recover() }()
				_, _ = DoTx(ctx, b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
					stay = b.followersOf(&runs)
					return "", errors.Join(second(b.effect("")(ctx, tx)), fate(ctx, cancel))
				})
			}()
			<-led
			fresh := 0
			for n, stay := range stay {
				a := answered(b, stay)
				var failure *Failure
				switch {
				case name == "Permanent":
					if !errors.As(a.err, &failure) || failure.Message != "boom" || errors.Is(a.err, boom) || !a.Replayed {
						b.Fatalf("follower %d got %+v, want the saved failure without its cause", n, a)
					}
				case !a.Replayed:
					fresh++
					fallthrough
				default:
					b.wantResult(a.Result, a.err, "follower", a.Replayed)
				}
			}
			want := 1
			if name == "Permanent" {
				want = 0
			}
			if fresh != want || int(runs.Load()) != want {
				b.Errorf("%d followers ran the key and %d say so, want %d", runs.Load(), fresh, want)
			}
			b.wantEffects(want)
			b.wantNoLocks()
		})
	}
}

// followersOf starts 200 followers of a leader that runs, sends a quarter of them away, and returns the others.
func (b *bundle) followersOf(runs *atomic.Int32) (stay []<-chan answer[string]) {
	var gone []<-chan answer[string]
	var leave []context.CancelCauseFunc
	all := crowd(200)
	for n := range all {
		ctx, cancel := context.WithCancelCause(b.Context())
		late, end := context.WithTimeout(ctx, time.Hour+time.Duration(n)*time.Minute)
		follower := async(b, func() (Result[string], error) {
			defer end()
			return DoTx(late, b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
				runs.Add(1)
				return b.effect("follower")(ctx, tx)
			})
		})
		if n%4 == 0 {
			gone, leave = append(gone, follower), append(leave, cancel)
		} else {
			stay = append(stay, follower)
			b.Cleanup(func() { cancel(nil) })
		}
	}
	b.waited(b.client, b.key, all)
	for n, follower := range gone {
		cause := fmt.Errorf("caller %d has gone", n)
		leave[n](cause)
		if a := answered(b, follower); !errors.Is(a.err, cause) {
			b.Errorf("got %v, want %v", a.err, cause)
		}
	}
	return stay
}

// A crowd that does not agree: the same key with the leader's request, another request, another result type that can
// read what the leader saves, and one that cannot. Each gets its own answer, and nobody but the leader runs.
func TestContentionFollowersDisagree(t *testing.T) {
	b := setup(t, withConfig(patience))
	each := crowd(128)
	var same, other []<-chan answer[string]
	var readable []<-chan answer[json.RawMessage]
	var unreadable []<-chan answer[int]
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		for range each {
			same = append(same, disagree[string](b, 1))
			other = append(other, disagree[string](b, 2))
			readable = append(readable, disagree[json.RawMessage](b, 1))
			unreadable = append(unreadable, disagree[int](b, 1))
		}
		b.waited(b.client, b.key, 4*each)
		return b.effect("saved")(ctx, tx)
	}, &TxOpts{Input: 1})
	b.wantResult(got, err, "saved", false)
	for n := range each {
		a := answered(b, same[n])
		b.wantResult(a.Result, a.err, "saved", true)
		b.wantError(answered(b, other[n]).err, ErrKeyReused)
		if a := answered(b, readable[n]); a.err != nil || string(a.Value) != `"saved"` || !a.Replayed {
			b.Errorf("got %+v, want the saved bytes", a)
		}
		b.wantError(answered(b, unreadable[n]).err, ErrResult)
	}
	b.wantEffects(1)
	got, err = DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Input: 1}) // what could not be read is unharmed
	b.wantResult(got, err, "saved", true)
}

func disagree[T any](b *bundle, input int) <-chan answer[T] {
	return async(b, func() (Result[T], error) {
		return DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (value T, err error) {
			b.Error("a follower ran the key")
			return value, nil
		}, &TxOpts{Input: input})
	})
}

// While a crowd waits for the key's lock, its holder saves the key as an operation of another kind.
func TestContentionAnotherKindWins(t *testing.T) {
	for kind, row := range map[string]string{
		"mark":  "'mark', 'succeeded', gen_random_uuid(), 1, NULL, NULL, clock_timestamp(), clock_timestamp() + interval '1 hour'",
		"steps": "'steps', 'running', gen_random_uuid(), 1, 4711, gen_random_uuid(), NULL, NULL",
	} {
		t.Run(kind, func(t *testing.T) {
			b := setup(t, withConfig(patience))
			holder, err := b.observe().Begin(b.Context())
			b.must(holder, err)
			defer func() { _ = holder.Rollback(context.WithoutCancel(b.Context())) }()
			b.must(holder.Exec(b.Context(), "SELECT pg_advisory_xact_lock($1)", b.key.lock()))
			var answers []<-chan answer[string]
			callers := crowd(128)
			for range callers {
				answers = append(answers, b.call(b.client, b.key, "never"))
			}
			b.waited(b.client, b.key, callers-1)
			b.lockAwaited("the first of them waits for the lock", 1)
			b.must(holder.Exec(b.Context(), `INSERT INTO idempotency_keys
				(scope, id, kind, state, claim, attempt, owner, life, finished_at, expires_at)
				VALUES ($1, $2, `+row+`)`, b.key.Scope, b.key.ID))
			b.must(nil, holder.Commit(b.Context()))
			for _, answers := range answers {
				b.wantError(answered(b, answers).err, ErrKeyReused)
			}
			b.wantEffects(0)
			b.wantNoLocks()
		})
	}
}

// call runs the key in a goroutine, with one effect and a result.
func (b *bundle) call(client *Client, key Key, result string) <-chan answer[string] {
	return async(b, func() (Result[string], error) {
		return DoTx(b.Context(), client, key, func(ctx context.Context, tx Tx) (string, error) {
			_, err := tx.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", key.ID)
			return result, err
		})
	})
}

// answered waits for a caller that must not be left waiting.
func answered[T any](b *bundle, call <-chan answer[T]) answer[T] {
	b.Helper()
	select {
	case a := <-call:
		return a
	case <-time.After(40 * time.Second):
		b.Fatal("a caller got no answer within 40 s")
		panic("unreachable")
	}
}

// lockKeys takes the locks of many keys in one transaction, as another process would.
func (b *bundle) lockKeys(keys ...Key) (unlock func()) {
	b.Helper()
	tx, err := b.observe().Begin(b.Context())
	b.must(tx, err)
	for _, key := range keys {
		b.must(tx.Exec(b.Context(), "SELECT pg_advisory_xact_lock($1)", key.lock()))
	}
	unlock = func() { _ = tx.Rollback(context.WithoutCancel(b.Context())) }
	b.Cleanup(unlock) // also where the test fails early
	return unlock
}

// wantNoLocks checks that no connection of the test's database has kept a lock of the library.
func (b *bundle) wantNoLocks() {
	b.Helper()
	if n := one[int](b, b.observe(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`); n != 0 {
		b.Errorf("%d advisory locks are left", n)
	}
}
