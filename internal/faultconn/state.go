package faultconn

import (
	"errors"
	"net"
	"time"
)

// strike does what the fault is for. The bytes before the point are delivered.
func (c *conn) strike(fl *Fault, s *stream) {
	if fl.kind == cut {
		c.reset()
	} else {
		c.mu.Lock()
		s.held = fl
		if fl.kind == blackHole {
			c.up.held, c.down.held = fl, fl
		}
		c.mu.Unlock()
	}
	close(fl.reached)
}

// reset cuts the connection: the server sees its end, the client ECONNRESET.
func (c *conn) reset() {
	c.mu.Lock()
	if !c.cut && !c.closed {
		close(c.gone)
	}
	c.cut = true
	c.mu.Unlock()
	c.socket.Close()
}

// resume lets go of a connection that fl holds, and sends what it kept.
func (c *conn) resume(fl *Fault) {
	c.mu.Lock()
	close(fl.released)
	c.draining = true
	c.mu.Unlock()

	c.writing.Lock()
	defer c.writing.Unlock()
	c.socket.SetWriteDeadline(time.Now().Add(resumeBound))
	if err := c.up.deliver(c, c.send); err != nil {
		c.reset()
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = false
	if c.closed && c.heldLocked(&c.up) == nil {
		c.socket.Close()
		c.faults.forget(c)
		return
	}
	c.socket.SetWriteDeadline(c.writeBy)
}

// Close is the client's. Like every message it waits behind a held one: until
// then the server does not know.
func (c *conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.readBy.set(time.Time{})
	if c.cut {
		c.faults.forget(c)
		return nil
	}
	close(c.gone)
	if c.draining || c.heldLocked(&c.up) != nil {
		return c.socket.SetReadDeadline(time.Unix(1, 0)) // wakes a Read that waits for the server
	}
	c.faults.forget(c)
	return c.socket.Close()
}

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	c.readBy.set(t)
	return c.socket.SetReadDeadline(t)
}

func (c *conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	c.writeBy = t
	return c.socket.SetWriteDeadline(t)
}

// stopped says whether a stream must not deliver now.
func (c *conn) stopped(s *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut || c.heldLocked(s) != nil
}

func (c *conn) heldBy(s *stream) *Fault {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heldLocked(s)
}

func (c *conn) heldLocked(s *stream) *Fault {
	if s.held == nil || closed(s.held.released) {
		return nil
	}
	return s.held
}

// noteSent remembers that the client expects an answer. Terminate and
// CancelRequest have none.
func (c *conn) noteSent(frames []*frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range frames {
		c.sent = c.sent || f.Type != Terminate && f.Type != CancelRequest
	}
}

// countRoundTrip counts one if the client waits for what it sent.
func (c *conn) countRoundTrip() {
	c.mu.Lock()
	sent := c.sent
	c.sent = false
	c.mu.Unlock()
	if sent {
		c.faults.roundTrip(c)
	}
}
