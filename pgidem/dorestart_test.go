package pgidem

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
)

// graceOfStart is how long takers leave a server that has just started to the owners that come back.
const graceOfStart = 2 * time.Second

// PostgreSQL stops at once in the middle of operations, and starts again. The server is the test's own, so the cases run one after the other.
func TestDoServerRestarts(t *testing.T) {
	t.Parallel()
	db := devpg.Restartable(t)
	pool := db.Pool(t)
	if _, err := pool.Exec(t.Context(), createEffects); err != nil {
		t.Fatal(err)
	}
	pool.Close()
	for name, test := range map[string]func(*bundle){
		"OwnerComesBack":   func(b *bundle) { restartBetween(b, b.restart) },
		"OwnerIsDead":      func(b *bundle) { ownerIsDead(b, b.restart) },
		"InATransaction":   restartInATransaction,
		"BeforeTheResult":  restartBeforeTheResult,
		"Crash":            func(b *bundle) { restartBetween(b, b.crash) },
		"CrashOwnerIsDead": func(b *bundle) { ownerIsDead(b, b.crash) },
	} {
		t.Run(name, func(t *testing.T) {
			b := &bundle{T: t, db: db, key: Key{Scope: "restart", ID: NewID()}}
			b.client, b.pool, b.faults = b.newClient(withConfig(patience), ownPing)
			test(b)
		})
	}
}

// ownPing lets the pool ask an idle connection whether it is still there, as pools do: all of them end with the server.
func ownPing(_ *bundle, _ *Config, p *pgxpool.Config) { p.ShouldPing = nil }

// persistent is a caller that asks again for as long as the server is away.
func (t *journey) persistent(b *bundle, client *Client) <-chan answer[string] {
	return async(b, func() (Result[string], error) {
		for {
			got, err := t.do(b.notHung(), client, "ride")
			if !errors.Is(err, ErrUnavailable) {
				return got, err
			}
		}
	})
}

// ride is an operation of several steps that a client has had before: it has a liveness connection since.
func (b *bundle) ride(client *Client) {
	b.Helper()
	before := &journey{key: Key{"before", NewID()}, who: "before", book: b.journey("before").book}
	got, err := before.do(b.notHung(), client, "ride")
	b.wantResult(got, err, rideResult, false)
}

// sinceStart is how long the server runs: since its start, or since it has recovered from the death of one of its processes.
func (t *journey) sinceStart(b *bundle) time.Duration {
	b.Helper()
	return time.Duration(one[float64](b, t.book, `SELECT extract(epoch FROM clock_timestamp()
		- greatest(pg_postmaster_start_time(), pg_stat_get_bgwriter_stat_reset_time()))::float8`) * float64(time.Second))
}

// restartBetween runs a ride to its call, has the server fall and come back, and lets the ride go on where it is tagged anew. A taker
// waits all the time, and does not get it; where this machine is so slow that the owner does not come back within the grace, nothing is shown.
func restartBetween(b *bundle, fall func()) {
	here, there := b.journey("here"), b.journey("there")
	other, _, _ := b.newClient(withConfig(patience), ownPing)
	inCall := newHalt()
	defer inCall.open()
	here.at = inCall.at("charge ends")
	first := async(b, func() (Result[string], error) { return here.do(b.notHung(), b.client, "ride") })
	<-inCall.reached
	was := b.client.liveness.get()
	b.ride(other)
	waiting := there.persistent(b, other)
	b.waited(other, b.key, 0)
	fall()
	b.until("the operation is the owner's again, or the taker's", "SELECT owner <> $1 FROM idempotency_keys WHERE id = $2", was.id, b.key.ID)
	attempt := one[int](b, here.book, "SELECT attempt FROM idempotency_keys WHERE id = $1", b.key.ID)
	b.Logf("%v after the start it is in the hands of attempt %d", here.sinceStart(b), attempt)
	inCall.open()
	a, late := answered(b, first), answered(b, waiting)
	if attempt == 2 {
		if since := there.sinceStart(b); since < graceOfStart {
			b.Errorf("the taker took over %v after the start", since)
		}
		b.Skip("this machine does not bring an owner back within the grace")
	}
	b.wantResult(a.Result, a.err, rideResult, false)
	b.wantResult(late.Result, late.err, rideResult, true)
	here.want(b, rodeOnce(), "create", "receipt")
	b.wantAllGone(b.client, other)
}

// restart stops the server at once and starts it again.
func (b *bundle) restart() {
	b.Helper()
	b.db.StopServer(b)
	b.db.StartServer(b)
}

// crash kills one of the server's processes, as the kernel does for want of memory: all sessions end and the server recovers, but it goes on
// being the same postmaster, with the same time of its start.
func (b *bundle) crash() {
	b.Helper()
	victim, err := pgxpool.New(b.Context(), b.db.URL())
	b.must(victim, err)
	defer victim.Close()
	witness, err := pgx.Connect(b.Context(), b.db.URL())
	b.must(witness, err)
	defer func() { _ = witness.Close(context.WithoutCancel(b.Context())) }()
	if _, err := victim.Exec(b.Context(), "COPY (SELECT pg_backend_pid()) TO PROGRAM 'read pid; kill -9 $pid'"); err == nil {
		b.Fatal("the backend has survived")
	}
	deadline := time.Now().Add(20 * time.Second)
	for witness.Ping(b.Context()) == nil || victim.Ping(b.Context()) != nil { // the other sessions end a moment later than the victim
		if time.Now().After(deadline) {
			b.Fatal("the server has not ended all sessions and recovered within 20 s")
		}
	}
}

// An owner that does not come back is replaced behind the grace.
func ownerIsDead(b *bundle, fall func()) {
	here, gone := b.journey("here"), b.journey("gone")
	var cut refusal
	owner, _, _ := b.newClient(withConfig(patience), ownPing, cut.option())
	defer cut.on.Store(false)
	inCall := newHalt()
	defer inCall.open()
	gone.at = inCall.at("charge ends")
	lost := async(b, func() (Result[string], error) { return gone.do(b.notHung(), owner, "ride") })
	<-inCall.reached
	var since time.Duration
	here.at = func(place string) {
		if place == "charge begins" {
			since = here.sinceStart(b)
		}
	}
	b.ride(b.client) // a client of which this is the first operation does not know that the server was away
	waiting := here.persistent(b, b.client)
	b.waited(b.client, b.key, 0)
	cut.on.Store(true)
	fall()
	a := answered(b, waiting)
	b.wantResult(a.Result, a.err, rideResult, false)
	b.Logf("taken over %v after the start", since)
	if since < graceOfStart {
		b.Errorf("the taker took over %v after the start", since)
	}
	cut.on.Store(false)
	inCall.open()
	a = answered(b, lost)
	b.wantResult(a.Result, a.err, rideResult, true)
	here.want(b, killedOnce, "create", "receipt")
	b.wantAllGone(b.client, owner)
}

// What a step's transaction has written is gone with the server, and the next call runs that step again, and no other.
func restartInATransaction(b *bundle) {
	here := b.journey("here")
	var once sync.Once
	here.at = func(place string) {
		if place == "receipt ends" {
			once.Do(func() {
				b.db.StopServer(b)
				b.db.StartServer(b)
			})
		}
	}
	got, err := here.do(b.notHung(), b.client, "ride")
	b.Logf("the owner is told: %v", err)
	// Where the loss is noticed only by the batch that has COMMIT in it, as in the simple protocol, the library has run the step again.
	if err != nil && !errors.Is(err, errHung) {
		got, err = here.onward().do(b.notHung(), b.client, "ride")
		if got.ResumedAfter != "charge" {
			b.Errorf("resumed after %q, want charge", got.ResumedAfter)
		}
	}
	b.wantResult(got, err, rideResult, false)
	here.want(b, map[string]int{"create": 1, "charge": 1, "receipt": 2}, "create", "receipt")
	b.wantAllGone(b.client)
}

// The server goes while a call is made, and is away when its answer comes: the answer waits in the process until it can be recorded.
func restartBeforeTheResult(b *bundle) {
	here := b.journey("here")
	down := make(chan struct{})
	here.at = func(place string) {
		if place == "charge ends" {
			b.db.StopServer(b)
			close(down)
		}
	}
	first := async(b, func() (Result[string], error) {
		return Do(b.notHung(), b.client, b.key, func(ctx context.Context, op *Op) (string, error) { return here.ride(ctx, op) })
	})
	<-down
	b.db.StartServer(b)
	a := answered(b, first)
	b.wantResult(a.Result, a.err, rideResult, false)
	if a.Attempt != 1 {
		b.Errorf("attempt %d, want 1", a.Attempt)
	}
	here.want(b, rodeOnce(), "create", "receipt")
	b.wantAllGone(b.client)
}
