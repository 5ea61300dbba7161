package pgidem

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// next waits for where a drive comes to: a gate, or its end.
func (g *game) next(d *drive) (at arrival, end *answer[string]) {
	g.Helper()
	select {
	case at = <-d.gates:
		d.gate = at.step
		return at, nil
	case a := <-d.done:
		delete(d.by.drives, d.of)
		return at, &a
	case <-time.After(patienceOfGame):
		g.expect(false, "a call of %s neither came to a step nor returned", d.by.name)
		return at, nil
	}
}

func (g *game) claim(p *player, k *played) {
	g.said("%s claims %d", p.name, slices.Index(g.keys, k))
	d := &drive{by: p, of: k, gates: make(chan arrival), orders: make(chan order), done: make(chan answer[string], 1)}
	p.drives[k] = d
	go func() {
		got, err := Do(g.b.Context(), p.client, k.key, d.run, &DoOpts{WaitBound: NoWait, MaxAttempts: 1000})
		d.done <- answer[string]{got, err}
	}()
	g.decided(d)
}

// decided checks what a call is told about the key, which is the same for one that begins and for one that was taken over.
func (g *game) decided(d *drive) {
	g.Helper()
	k := d.of
	switch {
	case k.answers():
		_, end := g.next(d)
		g.expect(end != nil, "%s runs a key that is %s", d.by.name, k.state)
		g.told(k, end)
		return
	case k.state == "", k.expired:
		k.recorded, k.attempt, d.resumed = nil, 0, false
	default:
		d.resumed = true
	}
	if k.state == stateRunning {
		k.owner.zombie = true
		k.owner.lost++
	}
	k.state, k.expired, k.owner, d.zombie, d.told = stateRunning, false, d, false, false
	k.attempt++
	for n := 0; ; n++ {
		at, end := g.next(d)
		g.expect(end == nil, "%s should run, and returned %v", d.by.name, end)
		g.expect(at.step == n && slices.Equal(at.got, k.recorded[:n]), "step %d has the results %q, want %q", at.step, at.got, k.recorded[:n])
		if n == len(k.recorded) {
			return
		}
		d.orders <- order{"go", "must not run again"}
	}
}

// answers reports whether a call with the key is told something and does not run.
func (k *played) answers() bool {
	finished := !k.expired && (k.state == stateSucceeded || k.state == stateFailed)
	return finished || k.state == stateParked || k.state == stateRunning && !k.owner.by.dead
}

// told checks the answer of a call that did not run the operation.
func (g *game) told(k *played, end *answer[string]) {
	g.Helper()
	f := (*Failure)(nil)
	switch k.state {
	case stateSucceeded:
		g.expect(end.err == nil && end.Value == k.value && end.Replayed && end.Attempt == k.attempt, "got %v, want the replay of %q", end, k.value)
	case stateFailed:
		g.expect(errors.As(end.err, &f) && f.Message == k.value && end.Replayed, "got %v, want the failure %q", end, k.value)
	case stateParked:
		g.expect(errors.Is(end.err, ErrParked), "got %v, want ErrParked", end)
	default:
		g.expect(errors.Is(end.err, ErrInProgress), "got %v, want ErrInProgress", end)
	}
}

// order lets a drive go on.
func (g *game) order(d *drive, what string) {
	g.values++
	k, n, value := d.of, d.gate, fmt.Sprintf("v%d", g.values)
	g.said("%s is to %s at %s of %d", d.by.name, what, stepNames[n], slices.Index(g.keys, k))
	d.orders <- order{what, value}
	if d.zombie { // nothing of it is saved, and nothing but a call that nobody can keep from it runs
		if n == 1 && !d.told && what != "fail" && what != "deny" {
			k.bodies[n]++
		}
		g.replaced(d)
		return
	}
	if what != "fail" && what != "deny" {
		k.bodies[n]++
	}
	if what == "go" && n < 2 {
		k.recorded = append(k.recorded, value)
		if n == 0 {
			k.effects = append(k.effects, value)
		}
		at, end := g.next(d)
		g.expect(end == nil && at.step == n+1 && slices.Equal(at.got, k.recorded), "behind step %d: %+v, %v; want %q", n, at, end, k.recorded)
		return
	}
	_, end := g.next(d)
	g.expect(end != nil, "%s goes on behind the order to %s", d.by.name, what)
	k.owner = nil
	f := (*Failure)(nil)
	switch what {
	case "go":
		k.recorded, k.effects = append(k.recorded, value), append(k.effects, value)
		k.state, k.value = stateSucceeded, strings.Join(k.recorded, " ")
		g.expect(end.err == nil && end.Value == k.value && !end.Replayed && end.Attempt == k.attempt, "got %v, want %q", end, k.value)
	case "deny":
		k.state, k.value = stateFailed, value
		g.expect(errors.As(end.err, &f) && f.Message == value && !end.Replayed, "got %v, want the failure", end)
	case "doubt":
		k.state = stateParked
		g.expect(errors.Is(end.err, ErrParked) && errors.Is(end.err, errOrdered), "got %v, want ErrParked", end)
	default:
		k.state = stateReleased
		if len(k.recorded) == 0 && !d.resumed {
			k.state = "" // nothing has happened in it
		}
		g.expect(errors.Is(end.err, errOrdered), "got %v, want the step's own error", end)
	}
}

// replaced is behind an order to a drive that was taken over: the call goes on as one that begins.
func (g *game) replaced(d *drive) {
	g.Helper()
	if d.of.state != "" && d.lost <= maxRounds {
		g.decided(d)
		return
	}
	// Where there is no row any more, the release of nothing has come true; and one that is replaced again and again gives up.
	_, end := g.next(d)
	g.expect(end != nil && (errors.Is(end.err, ErrTakenOver) || errors.Is(end.err, errOrdered) || d.lost > maxRounds || end.err != nil && d.of.state == ""),
		"got %v", end)
}

func (g *game) die(p *player) {
	g.said("%s loses its liveness connection", p.name)
	p.lease.cut()
	p.dead = true
}

// rise ends the loss. What nobody has taken over meanwhile is tagged anew, and the rest has heard of it.
func (g *game) rise(p *player) {
	g.said("%s is back", p.name)
	p.lease.open()
	p.dead = false
	ready := func() bool {
		in := p.client.liveness.get()
		return in != nil && len(p.client.registry.untagged(in.generation)) == 0
	}
	for _, d := range p.drives {
		d.told = d.zombie
	}
	for until := time.Now().Add(patienceOfGame); !ready(); {
		g.expect(time.Now().Before(until), "%s has no new instance", p.name)
		g.b.must(g.b.pool.Exec(g.b.Context(), "SELECT pg_sleep(0.005)"))
	}
	// Who has just come back gives others time to do so too; there is no time for that here.
	p.client.liveness.mu.Lock()
	p.client.liveness.returned = time.Time{}
	p.client.liveness.mu.Unlock()
}

func (g *game) expire(k *played) {
	g.said("%d expires", slices.Index(g.keys, k))
	k.expired = true
	g.b.must(g.b.pool.Exec(g.b.Context(), `UPDATE idempotency_keys SET created_at = created_at - interval '2 days',
		finished_at = finished_at - interval '2 days', expires_at = expires_at - interval '2 days' WHERE scope = $1 AND id = $2`, k.key.Scope, k.key.ID))
}

func (g *game) decide(k *played, what string) {
	g.said("an operator decides to %s %d", what, slices.Index(g.keys, k))
	ctx, client := g.b.Context(), g.b.client
	record, err := Lookup[string](ctx, client, k.key)
	g.expect(err == nil && record.State == stateParked, "looked up %+v, %v", record, err)
	d := Decision{Claim: record.Claim, Reason: "r", Actor: "a"}
	g.values++
	value := fmt.Sprintf("v%d", g.values)
	switch what {
	case "settle":
		err = Settle(ctx, client, k.key, d, value)
		k.state, k.value = stateSucceeded, value
	case "settle the step of":
		err = SettleStep(ctx, client, k.key, d, "charge", value)
		k.state, k.recorded = stateReleased, append(k.recorded, value)
	default:
		err = client.Release(ctx, k.key, d)
		k.state = stateReleased
	}
	g.expect(err == nil, "the decision: %v", err)
}

// moves are what may happen next.
func (g *game) moves() map[string]func() {
	moves := map[string]func(){}
	for _, p := range g.players {
		if p.dead {
			moves[p.name+" rises"] = func() { g.rise(p) }
		} else {
			moves[p.name+" dies"] = func() { g.die(p) }
		}
		for n, k := range g.keys {
			d := p.drives[k]
			on := fmt.Sprintf("%s on %d: ", p.name, n)
			switch {
			case d == nil && !p.dead:
				moves[on+"claim"] = func() { g.claim(p, k) }
			case d == nil || d.zombie && p.dead && !k.answers(): // it could not claim
			default:
				what := []string{"go", "fail", "fail inside", "deny"}
				if d.gate == 1 {
					what = append(what, "doubt")
				}
				for _, what := range what {
					moves[on+what] = func() { g.order(d, what) }
				}
				moves[on+"go on"] = func() { g.order(d, "go") } // which is what happens most
			}
		}
	}
	for n, k := range g.keys {
		switch {
		case k.state == stateParked:
			for _, what := range []string{"settle", "settle the step of", "release"} {
				moves[fmt.Sprintf("%s %d", what, n)] = func() { g.decide(k, what) }
			}
		case (k.state == stateSucceeded || k.state == stateFailed) && !k.expired:
			moves[fmt.Sprintf("expire %d", n)] = func() { g.expire(k) }
		}
	}
	return moves
}
