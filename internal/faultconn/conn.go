package faultconn

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// resumeBound bounds how long Release writes to a server that does not read.
const resumeBound = 10 * time.Second

// conn is the client's view of one connection.
type conn struct {
	socket net.Conn
	faults *Faults
	id     int
	names  *names

	writing sync.Mutex // held by who sends to the server
	up      stream

	reading sync.Mutex // held by who reads from the server
	down    stream
	ready   []byte // delivered, not yet read by the client
	ended   error  // of the real socket
	buf     []byte

	readBy deadline

	mu       sync.Mutex // guards what follows and stream.held; never held during I/O
	sent     bool       // the client sent something and has not waited since
	writeBy  time.Time
	draining bool          // Release is sending what was held
	cut      bool          // by a fault
	closed   bool          // by the client
	gone     chan struct{} // closed when cut or closed
}

func newConn(f *Faults, id int, socket net.Conn) *conn {
	return &conn{
		socket: socket, faults: f, id: id, names: newNames(),
		up:   stream{splitter: splitter{untyped: true}},
		buf:  make([]byte, 16<<10),
		gone: make(chan struct{}),
	}
}

// Write takes everything, as a kernel does, and delivers what no fault stops.
func (c *conn) Write(b []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.failure("write"); err != nil {
		return 0, err
	}
	owed := len(c.up.rest) // of a frame that earlier calls began
	frames, err := c.up.push(b, c.fromClient)
	if err != nil {
		c.reset()
		return 0, err
	}
	group(frames)
	c.noteSent(frames)
	before := c.up.delivered
	if err := c.up.deliver(c, c.send); err != nil {
		return min(max(c.up.delivered-before-owed, 0), len(b)), err
	}
	return len(b), nil
}

// Read returns bytes of whole frames that no fault stops, or waits.
func (c *conn) Read(b []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	if len(b) == 0 {
		return 0, nil
	}
	for {
		if n := copy(b, c.ready); n > 0 {
			c.ready = c.ready[n:]
			return n, nil
		}
		c.countRoundTrip()
		if err := c.failure("read"); err != nil {
			return 0, err
		}
		if fl := c.heldBy(&c.down); fl != nil {
			if err := c.await(fl); err != nil {
				return 0, err
			}
		}
		if len(c.down.queue) == 0 {
			if err := c.receive(); err != nil {
				return 0, err
			}
			c.countRoundTrip() // pgx reads ahead while a Write takes long
		}
		if err := c.down.deliver(c, c.keep); err != nil {
			return 0, err
		}
	}
}

// receive reads from the socket once, into the queue.
func (c *conn) receive() error {
	if c.ended != nil {
		return c.ended
	}
	n, err := c.socket.Read(c.buf)
	if _, bad := c.down.push(c.buf[:n], c.fromServer); bad != nil {
		c.reset()
		return bad
	}
	if err == nil {
		return nil
	}
	if failed := c.failure("read"); failed != nil {
		return failed
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return err
	}
	// The client gets what came before the end, half a frame too, then the end.
	c.down.queue = append(c.down.queue, &frame{raw: c.down.rest, passed: true})
	c.ended = err
	return nil
}

// await blocks a Read until fl is released.
func (c *conn) await(fl *Fault) error {
	for {
		expired, changed := c.readBy.wait()
		select {
		case <-fl.released:
			return nil
		case <-c.gone:
			return c.failure("read")
		case <-expired:
			return c.opError("read", os.ErrDeadlineExceeded)
		case <-changed:
		}
	}
}

func (c *conn) send(b []byte) error {
	_, err := c.socket.Write(b)
	if failed := c.failure("write"); err != nil && failed != nil {
		return failed
	}
	return err
}

func (c *conn) keep(b []byte) error {
	c.ready = append(c.ready, b...)
	return nil
}

func (c *conn) fromClient(f rawFrame) Message {
	return Message{Conn: c.id, Side: Client, Type: f.kind, SQL: c.names.sql(f)}
}

func (c *conn) fromServer(f rawFrame) Message {
	return Message{Conn: c.id, Side: Server, Type: f.kind, Tag: tag(f)}
}

// failure is the error of a connection that was cut or closed, else nil. It is
// what the client's kernel would say.
func (c *conn) failure(op string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.cut:
		return c.opError(op, os.NewSyscallError(op, syscall.ECONNRESET))
	case c.closed:
		return c.opError(op, net.ErrClosed)
	case op == "write" && !c.writeBy.IsZero() && !time.Now().Before(c.writeBy):
		return c.opError(op, os.ErrDeadlineExceeded)
	}
	return nil
}

func (c *conn) opError(op string, err error) error {
	remote := c.socket.RemoteAddr()
	return &net.OpError{Op: op, Net: remote.Network(), Source: c.socket.LocalAddr(), Addr: remote, Err: err}
}

func (c *conn) LocalAddr() net.Addr  { return c.socket.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr { return c.socket.RemoteAddr() }
