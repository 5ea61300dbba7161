package pgidem

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/faultconn"
)

// numbered are the points of an operation: before each batch that it sends, behind each answer that the server has given and nobody has
// read, and at both ends of each body. The process kills itself at one of them.
type numbered struct {
	faults *faultconn.Faults
	killAt int

	mu       sync.Mutex
	begun    bool
	n        int
	answered bool
}

// number leads the pool through the points. One connection makes their numbers the same in every run.
func number(config *pgxpool.Config, killAt int) *numbered {
	p := &numbered{faults: faultconn.New(), killAt: killAt, answered: true}
	config.MaxConns = 1
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	p.faults.Configure(config)
	for _, side := range []faultconn.Side{faultconn.Client, faultconn.Server} {
		p.faults.Cut(faultconn.Point{Side: side, Match: func(m faultconn.Message) bool {
			p.see(m)
			return false // a fault that only looks on
		}})
	}
	return p
}

func (p *numbered) see(m faultconn.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case m.Side == faultconn.Client && p.answered:
		p.answered = false
		p.point()
	case m.Side == faultconn.Server && m.Type == faultconn.ReadyForQuery:
		p.answered = true
		p.point()
	}
}

// begin starts to count, when what the client does once is done.
func (p *numbered) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begun = true
}

func (p *numbered) pass() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.point()
}

// point kills the process at the point that was asked for. mu must be held.
func (p *numbered) point() {
	if !p.begun {
		return
	}
	if p.n++; p.n == p.killAt {
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Kill()
		}
		if err != nil {
			panic(err)
		}
		select {} // the signal is on its way
	}
}

func (p *numbered) passed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// A process is killed at every point of an operation, one after the other. Whoever comes behind it runs each body that is not recorded, once,
// and no other; what the operation leaves is the same at every point.
func TestDoKilledAtEveryPoint(t *testing.T) {
	for name, itinerary := range map[string]string{"Ride": "ride", "StartsWithTx": "ride at tx", "Cancelled": "cancelled"} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, withConfig(untimed))
			here := b.journey("here")
			whole := b.startRider(riderTask{Who: "doomed", Itinerary: itinerary, KillAt: -1})
			points := whole.report().Points
			b.must(nil, whole.process.Wait())
			if points < 16 {
				b.Fatalf("the operation has %d points, more were expected", points)
			}
			t.Logf("%d points", points)
			step := 1
			if testing.Short() {
				step = 5 // odd, since what is sent and what is answered alternate
			}
			var last *journey
			for at := 1; at <= points; at += step {
				b.key.ID = NewID()
				last = &journey{key: b.key, who: here.who, book: here.book}
				b.dieAt(last, itinerary, at)
				if b.Failed() {
					b.Fatalf("at point %d of %d", at, points)
				}
			}
			b.wantAllGone(b.client)
		})
	}
}

// dieAt kills a process at a point of an operation, and lets this process finish what it has begun.
func (b *bundle) dieAt(t *journey, itinerary string, at int) {
	b.Helper()
	doomed := b.startRider(riderTask{Who: "doomed", Itinerary: itinerary, KillAt: at})
	if err := doomed.process.Wait(); err == nil || err.Error() != "signal: killed" {
		b.Errorf("the process was not killed: %v", err)
		return
	}
	b.untilOn(t.book, "the server has noticed", "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'doomed' AND datname = current_database()")
	was := b.standing(t)
	what := fmt.Sprintf("point %d, which leaves %+v", at, was)
	before := t.wrote(b, "doomed")
	expect := was.ride
	if itinerary == "cancelled" {
		expect = was.cancelled
	}
	mine, parks := expect(before)
	got, err := t.do(b.Context(), b.client, itinerary)
	if parks {
		b.wantError(err, ErrParked)
		b.settleDriver(t, before["call driver"] > 0)
		got, err = t.do(b.Context(), b.client, itinerary)
	}
	attempt := 1
	if was.state != "" && was.state != stateSucceeded && was.state != stateFailed {
		attempt = 2
	}
	if parks {
		attempt = 3
	}
	var failure *Failure
	switch {
	case itinerary == "cancelled" && (!errors.As(err, &failure) || failure.Code != refused.Code):
		b.Errorf("%s: got %+v, %v; want the failure", what, got, err)
	case itinerary != "cancelled" && (err != nil || got.Value != rideResult || got.Attempt != attempt || got.ResumedAfter != was.point && !got.Replayed):
		b.Errorf("%s: got %+v, %v; want the result in attempt %d", what, got, err, attempt)
	}
	if ran := t.wrote(b, t.who); !maps.Equal(ran, mine) {
		b.Errorf("%s: the bodies ran here %v times, want %v", what, ran, mine)
	}
	total := maps.Clone(before)
	for step, n := range mine {
		total[step] += n
	}
	if itinerary == "cancelled" {
		t.want(b, total, "create", "undo create")
		if total["reserve"] != 1 || total["call driver"] != 1 {
			b.Errorf("%s: %v; what can be asked about, and what must not be repeated, happen once", what, total)
		}
		return
	}
	t.want(b, total, "create", "receipt")
}

// remains is what is found of an operation whose process was killed.
type remains struct {
	state, point string
	steps        map[string]bool // false: an intent
}

func (b *bundle) standing(t *journey) remains {
	b.Helper()
	found := remains{steps: map[string]bool{}}
	err := t.book.QueryRow(b.Context(), "SELECT state::text, coalesce(recovery_point, '') FROM idempotency_keys WHERE scope = $1 AND id = $2",
		t.key.Scope, t.key.ID).Scan(&found.state, &found.point)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		b.Fatal(err)
	}
	rows, err := t.book.Query(b.Context(), "SELECT name, recorded_at IS NOT NULL FROM idempotency_steps WHERE scope = $1 AND id = $2", t.key.Scope, t.key.ID)
	b.must(rows, err)
	var name string
	var recorded bool
	_, err = pgx.ForEachRow(rows, []any{&name, &recorded}, func() error { found.steps[name] = recorded; return nil })
	b.must(nil, err)
	return found
}

// ride says which bodies of a ride are still to run.
func (l remains) ride(map[string]int) (mine map[string]int, parks bool) {
	mine = map[string]int{}
	for _, step := range []string{"create", "charge", "receipt"} {
		if !l.steps[step] {
			mine[step] = 1
		}
	}
	return mine, false
}

// cancelled is the same of a cancelled journey: a call that was intended is asked about, or parks the operation; behind the failure only
// what takes back is left.
func (l remains) cancelled(before map[string]int) (mine map[string]int, parks bool) {
	mine = map[string]int{}
	forward := l.state == "" || l.state == stateRunning
	for _, step := range []string{"create", "reserve", "call driver"} {
		recorded, intended := l.steps[step]
		switch {
		case recorded || !forward:
		case intended && step == "reserve":
			mine["ask"] = 1
			if before[step] == 0 {
				mine[step] = 1
			}
		case intended:
			parks = true
			if before[step] == 0 {
				mine[step] = 1
			}
		default:
			mine[step] = 1
		}
	}
	if forward {
		mine["confirm"] = 1
	}
	for _, step := range []string{"create", "reserve", "call driver"} {
		if !l.steps[undoPrefix+step] && l.state != stateFailed {
			mine["undo "+step] = 1
		}
	}
	return mine, parks
}

// settleDriver decides about the parked call as somebody who has asked the driver.
func (b *bundle) settleDriver(t *journey, called bool) {
	b.Helper()
	record, err := Lookup[string](b.Context(), b.client, t.key)
	b.must(record, err)
	decision := Decision{Claim: record.Claim, Reason: "the driver was asked", Actor: "dispatcher"}
	if called {
		b.must(nil, SettleStep(b.Context(), b.client, t.key, decision, "call driver", "called"))
	} else {
		b.must(nil, b.client.Release(b.Context(), t.key, decision))
	}
}

// untilOn is until on a pool that is there already.
func (b *bundle) untilOn(pool *pgxpool.Pool, what, sql string, args ...any) {
	b.Helper()
	ctx, cancel := context.WithTimeoutCause(b.Context(), 20*time.Second, errors.New(what+": not seen"))
	defer cancel()
	for !one[bool](b, pool, sql, args...) {
		b.must(pool.Exec(ctx, "SELECT pg_sleep(0.005)"))
	}
}
