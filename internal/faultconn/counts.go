package faultconn

import (
	"maps"
	"slices"
)

// Counts is what went over one connection, or over all of them, since the last
// Reset. Frames are counted when it is their turn to be delivered, so one that
// was cut is counted too.
type Counts struct {
	Connections int // StartupMessages: sessions that were opened
	Cancels     int // CancelRequests, refused ones too

	// RoundTrips is how often the client began to wait for the server after it
	// had sent something: changes from writing to reading, however many frames
	// or writes lie between. It is what a slow network multiplies. Opening a
	// session counts (startup, authentication); Terminate and CancelRequest,
	// which have no answer, do not.
	RoundTrips int

	// Syncs is the number of Sync and Query messages: of the points where the
	// server ends an implicit transaction and answers ReadyForQuery.
	Syncs int

	// Commits is the number of CommandComplete answers tagged COMMIT that came
	// back, delivered to the client or not. A statement outside of BEGIN
	// commits without that tag; a failed transaction answers ROLLBACK.
	Commits int

	Frontend map[byte]int // client messages by type
	Backend  map[byte]int // server messages by type
}

func newCounts() *Counts {
	return &Counts{Frontend: map[byte]int{}, Backend: map[byte]int{}}
}

func (c *Counts) note(m Message) {
	if m.Side == Server {
		c.Backend[m.Type]++
		if m.Type == CommandComplete && m.Tag == "COMMIT" {
			c.Commits++
		}
		return
	}
	c.Frontend[m.Type]++
	switch m.Type {
	case StartupMessage:
		c.Connections++
	case CancelRequest:
		c.Cancels++
	case Query, Sync:
		c.Syncs++
	}
}

func (c *Counts) add(d *Counts) {
	c.Connections += d.Connections
	c.Cancels += d.Cancels
	c.RoundTrips += d.RoundTrips
	c.Syncs += d.Syncs
	c.Commits += d.Commits
	for t, n := range d.Frontend {
		c.Frontend[t] += n
	}
	for t, n := range d.Backend {
		c.Backend[t] += n
	}
}

// Counts returns the sum over all connections, closed ones included.
func (f *Faults) Counts() Counts {
	sum := newCounts()
	for _, c := range f.ByConn() {
		sum.add(&c)
	}
	return *sum
}

// ByConn returns the counts of each connection that sent or received something,
// by its number (Message.Conn).
func (f *Faults) ByConn() map[int]Counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make(map[int]Counts, len(f.counts))
	for id, c := range f.counts {
		one := *c
		one.Frontend, one.Backend = maps.Clone(c.Frontend), maps.Clone(c.Backend)
		all[id] = one
	}
	return all
}

// Record starts a list of all messages, from now until Reset.
func (f *Faults) Record() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.recording, f.messages = true, nil
}

// Messages returns what was recorded, in the order of delivery.
func (f *Faults) Messages() []Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.messages)
}

// Reset begins a new phase: all counts are zero, the recorder is off and empty.
// Armed faults stay armed, with what they have counted.
func (f *Faults) Reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts = map[int]*Counts{}
	f.recording, f.messages = false, nil
}

// of returns the counts of a connection. f.mu must be held.
func (f *Faults) of(id int) *Counts {
	if f.counts[id] == nil {
		f.counts[id] = newCounts()
	}
	return f.counts[id]
}

func (f *Faults) roundTrip(c *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.of(c.id).RoundTrips++
}
