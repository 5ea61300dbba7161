package pgidem

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"time"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// 512 callers of one key on a pool of 8: one runs, all get the same bytes, and another key goes on meanwhile.
func TestHotKey(t *testing.T) {
	b := setup(t, withConfig(patience))
	var answers []<-chan answer[string]
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		for range 512 {
			answers = append(answers, async(b, func() (Result[string], error) {
				return DoTx(b.Context(), b.client, b.key, b.effect("never"))
			}))
		}
		b.joined(512)
		b.must(DoTx(b.Context(), b.client, Key{"other", NewID()}, b.effectOf("other")))
		return b.effect("first")(ctx, tx)
	})
	b.wantResult(got, err, "first", false)
	for _, answers := range answers {
		a := <-answers
		b.wantResult(a.Result, a.err, "first", true)
	}
	b.wantEffects(1)
}

// review 22: many hot keys, all held by another process, cannot take the whole pool: other keys go on.
func TestReview22HotKeysDoNotStarveOthers(t *testing.T) {
	patient := func(c *Config) { c.WaitBound, c.LockTimeout = time.Minute, time.Minute }
	b := setup(t, withConfig(patient))
	b.warm(b.client, b.pool)
	var unlock []func()
	var answers []<-chan answer[string]
	for range 32 {
		key := Key{"hot", NewID()}
		unlock = append(unlock, b.lockKey(key))
		answers = append(answers, async(b, func() (Result[string], error) {
			return DoTx(b.Context(), b.client, key, b.effectOf("hot"))
		}))
	}
	b.lockAwaited("every slot waits", cap(b.client.waiting))
	cold, cancel := context.WithTimeout(b.Context(), 20*time.Second) // starved, they would wait for the hot ones' minute
	defer cancel()
	for range 20 {
		if _, err := DoTx(cold, b.client, Key{"cold", NewID()}, b.effectOf("cold")); err != nil {
			b.Errorf("another key was starved: %v", err)
		}
	}
	for _, unlock := range unlock {
		unlock()
	}
	for _, answers := range answers {
		a := <-answers
		b.wantResult(a.Result, a.err, "hot", false)
	}
}

// review 16: what befalls the leader is its own; the next caller leads.
func TestReview16LeadersFateIsItsOwn(t *testing.T) {
	boom := errors.New("boom")
	for name, c := range map[string]struct {
		fate func(context.CancelFunc, context.Context) error
		want func(err error, panicked any) bool
	}{
		"Error": {
			fate: func(context.CancelFunc, context.Context) error { return boom },
			want: func(err error, _ any) bool { return errors.Is(err, boom) },
		},
		"Panic": {
			fate: func(context.CancelFunc, context.Context) error { panic(boom) },
			want: func(_ error, panicked any) bool { return panicked == boom },
		},
		"Goexit": {
			fate: func(context.CancelFunc, context.Context) error { runtime.Goexit(); return nil },
			want: func(err error, panicked any) bool { return err == nil && panicked == nil },
		},
		"Cancelled": {
			fate: func(cancel context.CancelFunc, ctx context.Context) error { cancel(); <-ctx.Done(); return ctx.Err() },
			want: func(err error, _ any) bool { return errors.Is(err, context.Canceled) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			var follower <-chan answer[string]
			ended := make(chan struct{})
			var err error
			var panicked any
			go func() {
				defer close(ended)
				defer func() { panicked = recover() }()
				_, err = DoTx(ctx, b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
					_, err := b.effect("")(ctx, tx)
					b.must(nil, err)
					follower = async(b, func() (Result[string], error) {
						return DoTx(b.Context(), b.client, b.key, b.effect("follower"))
					})
					b.joined(1)
					return "", c.fate(cancel, ctx)
				})
			}()
			<-ended
			if !c.want(err, panicked) {
				b.Errorf("the leader got %v and panicked with %v", err, panicked)
			}
			a := <-follower
			b.wantResult(a.Result, a.err, "follower", false)
			b.wantEffects(1)
		})
	}
}

// review 16: who waits in memory gets the outcome only if the row is for its request: what the leader asked for does not
// count. Its own bounds hold.
func TestReview16FollowersAreChecked(t *testing.T) {
	b := setup(t)
	var wrong, right <-chan answer[string]
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		wrong = async(b, func() (Result[string], error) {
			return DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Input: 2})
		})
		right = async(b, func() (Result[string], error) {
			return DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Input: 1})
		})
		b.joined(2)
		_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Input: 1, WaitBound: NoWait})
		b.wantError(err, ErrInProgress)
		_, err = DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Input: 1, WaitBound: time.Millisecond})
		b.wantError(err, ErrInProgress)
		gone, cancel := context.WithCancel(b.Context())
		cancel()
		if _, err = DoTx(gone, b.client, b.key, b.effect("never")); !errors.Is(err, context.Canceled) {
			b.Errorf("got %v, want the context's end", err)
		}
		return b.effect("first")(ctx, tx)
	}, &TxOpts{Input: 1})
	b.wantResult(got, err, "first", false)
	a := <-right
	b.wantResult(a.Result, a.err, "first", true)
	a = <-wrong
	b.wantError(a.err, ErrKeyReused)
	b.wantEffects(1)
}

// A caller with the wrong request must not make the right one's retry fail, only because it came first.
func TestWrongLeaderDoesNotHarmTheRightFollower(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("saved"), &TxOpts{Input: "right"}))
	hold := b.faults.Hold(faultconn.Point{SQL: "pg_try_advisory_xact_lock"})
	wrong := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Input: "wrong"})
	})
	b.reached(hold)
	right := async(b, func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Input: "right", WaitBound: NoWait})
	})
	b.joined(1)
	hold.Release()
	a := <-wrong
	b.wantError(a.err, ErrKeyReused)
	a = <-right
	b.wantResult(a.Result, a.err, "saved", true)
	b.wantEffects(1)
}

// review 24, in memory: a caller that does not wait is told "in progress" only when the leader has found that it is.
func TestNoWaitFollowerOfAReplay(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("saved")))
	hold := b.faults.Hold(faultconn.Point{SQL: "pg_try_advisory_xact_lock"})
	call := func() (Result[string], error) {
		return DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{WaitBound: NoWait})
	}
	first := async(b, call)
	b.reached(hold)
	second := async(b, call)
	b.joined(1)
	hold.Release()
	for _, answers := range []<-chan answer[string]{first, second} {
		a := <-answers
		b.wantResult(a.Result, a.err, "saved", true)
	}
}

// What one caller does to a failure's details cannot reach another.
func TestFollowersGetTheirOwnFailure(t *testing.T) {
	b := setup(t)
	var follower <-chan answer[string]
	_, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) {
		follower = async(b, func() (Result[string], error) { return DoTx(b.Context(), b.client, b.key, b.effect("never")) })
		b.joined(1)
		return "", Permanent(&Failure{Message: "no", Details: map[string]string{"balance": "3"}})
	})
	var first, later *Failure
	if !errors.As(err, &first) {
		b.Fatalf("got %v, want a failure", err)
	}
	first.Details["balance"] = "changed"
	a := <-follower
	if !errors.As(a.err, &later) || later.Details["balance"] != "3" {
		b.Errorf("the follower got %+v", later)
	}
}

// review 15: the same key nested would wait for itself, in memory or, the lock being re-entrant, not at all.
func TestReview15NestedSameKeyIsRefused(t *testing.T) {
	b := setup(t)
	got, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
		_, err := DoTx(ctx, b.client, b.key, b.effect("inner"))
		b.wantError(err, ErrNested)
		b.wantError(b.client.Forget(ctx, b.key), ErrNested)
		inner, err := DoTx(ctx, b.client, Key{"s", "other"}, func(ctx context.Context, _ Tx) (string, error) {
			_, err := DoTx(ctx, b.client, b.key, b.effect("inner"))
			b.wantError(err, ErrNested)
			return "other key", nil
		})
		b.wantResult(inner, err, "other key", false)
		return b.effect("outer")(ctx, tx)
	})
	b.wantResult(got, err, "outer", false)
	b.wantEffects(1)
}

// review 16: Do(A){Do(B)} beside Do(B){Do(A)} ends: a call that holds a key waits in the database, within lock_timeout.
func TestReview16CrossedNestedKeysEnd(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.WaitBound = 300 * time.Millisecond }))
	keyA, keyB := Key{"crossed", "a"}, Key{"crossed", "b"}
	met := newRendezvous(2)
	crossed := func(outer, inner Key) <-chan answer[string] {
		return async(b, func() (Result[string], error) {
			return DoTx(b.Context(), b.client, outer, func(ctx context.Context, _ Tx) (string, error) {
				met.wait(ctx)
				got, err := DoTx(ctx, b.client, inner, b.effect("inner"))
				return got.Value, err
			})
		})
	}
	one, two := crossed(keyA, keyB), crossed(keyB, keyA)
	a1, a2 := <-one, <-two
	if !errors.Is(a1.err, ErrInProgress) && !errors.Is(a2.err, ErrInProgress) {
		b.Errorf("got %v and %v, want at least one %v", a1.err, a2.err, ErrInProgress)
	}
}

// review 15: a unique violation of the caller's own is not the lost race for the key.
func TestReview15UsersUniqueViolationIsTheUsers(t *testing.T) {
	b := setup(t)
	b.must(b.pool.Exec(b.Context(), "CREATE TABLE once (id text CONSTRAINT once_pkey PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)"))
	insert := "INSERT INTO once VALUES ('x')"
	b.must(b.pool.Exec(b.Context(), insert))
	for name, fn := range map[string]func(context.Context, Tx) (string, error){
		"AtCommit": func(ctx context.Context, tx Tx) (string, error) { _, err := tx.Exec(ctx, insert); return "", err },
		"InFn": func(ctx context.Context, tx Tx) (string, error) {
			_, err := tx.Exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE; "+insert)
			return "", err
		},
		"InLast": func(_ context.Context, tx Tx) (string, error) {
			return "", errors.Join(tx.Last("SET CONSTRAINTS ALL IMMEDIATE"), tx.Last(insert))
		},
	} {
		runs := 0
		_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (string, error) {
			runs++
			return fn(ctx, tx)
		})
		if sqlState(err) != uniqueViolation || runs != 1 {
			b.Errorf("%s: %d runs and %v, want one run and the user's 23505", name, runs, err)
		}
		b.wantState("")
	}
}

// Every caller decodes its own copy: what one does to its value cannot reach another.
func TestFollowersGetTheirOwnCopy(t *testing.T) {
	b := setup(t)
	type value struct{ Numbers []int }
	call := func(fn func() value) (Result[value], error) {
		return DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (value, error) { return fn(), nil })
	}
	var follower <-chan answer[value]
	first, err := call(func() value {
		follower = async(b, func() (Result[value], error) { return call(func() value { return value{} }) })
		b.joined(1)
		return value{[]int{1, 2, 3}}
	})
	b.must(first, err)
	first.Value.Numbers[0] = 99
	a := <-follower
	if a.err != nil || len(a.Value.Numbers) != 3 || a.Value.Numbers[0] != 1 {
		b.Errorf("got %+v, want the saved value", a)
	}
}

func (b *bundle) effectOf(key string) func(context.Context, Tx) (string, error) {
	return func(ctx context.Context, tx Tx) (string, error) {
		_, err := tx.Exec(ctx, "INSERT INTO effects (key) VALUES ($1)", key)
		return key, err
	}
}

// joined waits until n callers wait in memory for the one that runs the bundle's key.
func (b *bundle) joined(n int) {
	b.Helper()
	b.waited(b.client, b.key, n)
}

// waited waits until n callers of a client wait in memory for the one that has the key.
func (b *bundle) waited(client *Client, key Key, n int) {
	b.Helper()
	for deadline := time.Now().Add(20 * time.Second); waiters(client, key) < n; runtime.Gosched() {
		if time.Now().After(deadline) {
			b.Errorf("%d callers wait for the one that has %v, want %d", waiters(client, key), key, n)
			return
		}
	}
}

// waiters is how many callers have joined the one that has the key, -1 where nobody has it.
func waiters(client *Client, key Key) int {
	fs := &client.flights
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.byKey[key]; f != nil {
		return f.waiters
	}
	return -1
}
