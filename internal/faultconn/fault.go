package faultconn

import "slices"

type kind byte

const (
	cut kind = iota
	hold
	blackHole
)

// Fault is one armed fault. It strikes once.
type Fault struct {
	faults *Faults
	kind   kind
	point  Point

	reached  chan struct{} // closed when it has struck
	released chan struct{} // closed when the test lets go of it

	// Guarded by faults.mu.
	seen    int   // messages that fitted
	pinned  *conn // with OneConn: the connection that counts
	conn    *conn // where it struck
	settled bool  // released, cut or disarmed
}

// Cut arms a fault that closes the connection at p.
func (f *Faults) Cut(p Point) *Fault { return f.arm(cut, p) }

// Hold arms a fault that stops, at p, the direction of p.Side until Release.
func (f *Faults) Hold(p Point) *Fault { return f.arm(hold, p) }

// BlackHole arms a fault that, at p, stops both directions until Heal.
func (f *Faults) BlackHole(p Point) *Fault { return f.arm(blackHole, p) }

func (f *Faults) arm(k kind, p Point) *Fault {
	p.check()
	fl := &Fault{faults: f, kind: k, point: p, reached: make(chan struct{}), released: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = append(f.armed, fl)
	return fl
}

// Reached is closed when the fault has struck: the connection is cut or stopped.
func (fl *Fault) Reached() <-chan struct{} { return fl.reached }

// Fired says whether the fault has struck.
func (fl *Fault) Fired() bool { return closed(fl.reached) }

// Release lets a held connection go on: what was kept is delivered before it
// returns, and if the client has closed the connection, that happens now. A
// fault that has not struck is disarmed. Calling it again does nothing.
func (fl *Fault) Release() {
	if c, ok := fl.settle(); ok && c != nil {
		c.resume(fl)
	}
}

// Heal is Release by the name that fits a BlackHole.
func (fl *Fault) Heal() { fl.Release() }

// Cut cuts a held connection: what was kept is lost. A fault that has not
// struck is disarmed. It does nothing after Release.
func (fl *Fault) Cut() {
	if c, ok := fl.settle(); ok && c != nil {
		c.reset()
		c.resume(fl)
	}
}

// settle ends the fault's life; only the first call gets true. The connection
// is nil if the fault had not struck.
func (fl *Fault) settle() (*conn, bool) {
	fl.faults.mu.Lock()
	defer fl.faults.mu.Unlock()
	if fl.settled {
		return nil, false
	}
	fl.settled = true
	fl.faults.armed = slices.DeleteFunc(fl.faults.armed, func(other *Fault) bool { return other == fl })
	return fl.conn, true
}

// counts takes note of a frame and says whether it is the one to strike at.
// faults.mu must be held.
func (fl *Fault) counts(c *conn, f *frame) bool {
	if fl.pinned != nil && fl.pinned != c || !fl.point.fits(f) {
		return false
	}
	if fl.point.OneConn {
		fl.pinned = c
	}
	fl.seen++
	return fl.seen >= fl.point.nth()
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
