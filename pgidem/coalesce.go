package pgidem

import (
	"context"
	"sync"
	"time"
)

// flights lets one caller per key and process go to the database; the others wait for it in memory, where a hot key
// costs no connections.
type flights struct {
	mu    sync.Mutex
	byKey map[Key]*flight
}

// flight is one caller's execution as the others see it.
type flight struct {
	waiters int           // callers that have joined, under flights.mu
	taken   chan struct{} // closed when the key is known to be in somebody's hands: the leader's, or another process's
	landed  chan struct{} // closed at the end
	outcome *outcome      // set before landed is closed, and only where the key is settled
}

// join returns the flight of a key; leads is true for the caller that has to fly it.
func (fs *flights) join(key Key) (f *flight, leads bool) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if f := fs.byKey[key]; f != nil {
		f.waiters++
		return f, false
	}
	f = &flight{taken: make(chan struct{}), landed: make(chan struct{})}
	fs.byKey[key] = f
	return f, true
}

func (fs *flights) land(key Key, f *flight, settled *outcome) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.byKey[key] == f {
		delete(fs.byKey, key)
	}
	f.outcome = settled
	close(f.landed)
}

// part keeps later callers from joining the flight of a key that was forgotten since it took off.
func (fs *flights) part(key Key) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.byKey, key)
}

// share leads the key's flight or waits for it. Only a settled outcome is handed over, as bytes that each caller
// decodes for itself, and only for the request that it was saved for: the row decides, not what the leader asked. An
// error, a panic or a cancelled context of the leader is its own, and the next caller leads.
func (e *execution) share(ctx context.Context) (outcome, error) {
	for {
		f, leads := e.client.flights.join(e.key)
		if leads {
			return e.lead(ctx, f)
		}
		switch err := e.waitFor(ctx, f); {
		case err != nil:
			return outcome{}, err
		case f.outcome == nil:
			continue
		case e.kind != f.outcome.kind:
			return outcome{}, e.reused("it belongs to an operation of kind " + f.outcome.kind)
		case !e.fingerprint.matches(f.outcome.fingerprint):
			return outcome{}, e.reused("it was used with another fingerprint")
		default:
			return f.outcome.forOthers(), nil
		}
	}
}

func (e *execution) lead(ctx context.Context, f *flight) (out outcome, err error) {
	var settled *outcome
	defer func() { e.client.flights.land(e.key, f, settled) }()
	e.taken = sync.OnceFunc(func() { close(f.taken) })
	out, err = e.settle(ctx)
	if err == nil {
		out.kind = e.kind
		others := out.forOthers() // before the leader has it in its hands
		settled = &others
	}
	return out, err
}

// waitFor waits within the wait bound, and in any case until the leader knows whether the key is in progress at all: it
// may only be replaying, which takes a round trip.
func (e *execution) waitFor(ctx context.Context, f *flight) error {
	timer := time.NewTimer(time.Until(e.waitUntil))
	defer timer.Stop()
	select {
	case <-f.landed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
	}
	select {
	case <-f.landed:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-f.taken:
		return e.inProgress("another caller in this process has it", nil)
	}
}
