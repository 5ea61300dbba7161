package faultconn

import (
	"context"
	"net"
	"sync"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgxpool"
)

// Faults is shared by all connections of a pool, or of several. It is safe for
// concurrent use.
type Faults struct {
	refuseCancel atomic.Bool

	mu        sync.Mutex
	dialed    int
	open      map[*conn]bool
	armed     []*Fault
	counts    map[int]*Counts
	recording bool
	messages  []Message
}

// New returns a Faults that breaks nothing and counts everything.
func New() *Faults {
	return &Faults{open: map[*conn]bool{}, counts: map[int]*Counts{}}
}

// Dial opens a connection under the control of f. It has the type of
// pgconn.Config.DialFunc.
func (f *Faults) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	socket, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return f.Wrap(socket), nil
}

// Configure puts f between the pool and the dialer that cfg has. It also covers
// the connections that pgx dials to send a CancelRequest.
func (f *Faults) Configure(cfg *pgxpool.Config) {
	dial := cfg.ConnConfig.DialFunc
	if dial == nil {
		cfg.ConnConfig.DialFunc = f.Dial
		return
	}
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		socket, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return f.Wrap(socket), nil
	}
}

// Wrap puts a connection that was just dialed under the control of f.
func (f *Faults) Wrap(socket net.Conn) net.Conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dialed++
	c := newConn(f, f.dialed, socket)
	f.open[c] = true
	return c
}

// RefuseCancel decides whether CancelRequests are cut instead of delivered:
// what a client that was killed, or whose network is gone, does not send.
func (f *Faults) RefuseCancel(refuse bool) { f.refuseCancel.Store(refuse) }

// Close cuts all connections that are still open, those included that their
// client closed during a Hold or BlackHole, and disarms all faults. Close the
// pool first.
func (f *Faults) Close() {
	f.mu.Lock()
	f.armed = nil
	var open []*conn
	for c := range f.open {
		open = append(open, c)
	}
	f.mu.Unlock()
	for _, c := range open {
		c.reset()
		f.forget(c)
	}
}

func (f *Faults) forget(c *conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
}

// pass is called once for each frame when it is its turn, and returns the fault
// that strikes there, if any. Every armed fault counts the frame, also where
// another one strikes; that one then takes the next frame that fits.
func (f *Faults) pass(c *conn, fr *frame) *Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.of(c.id).note(fr.Message)
	if f.recording {
		f.messages = append(f.messages, fr.Message)
	}
	var strikes *Fault
	waiting := f.armed[:0]
	for _, fl := range f.armed {
		if fl.counts(c, fr) && strikes == nil {
			strikes = fl
			continue
		}
		waiting = append(waiting, fl)
	}
	clear(f.armed[len(waiting):])
	f.armed = waiting
	if strikes != nil {
		strikes.conn = c
	}
	return strikes
}
