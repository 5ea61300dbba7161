package pgidem

import (
	"context"
	"io"
	"net"
	"net/url"
	"sync"
)

// crossing is where a liveness connection goes through: it can be closed, for what is on it and for what comes.
type crossing struct {
	dsn    string
	mu     sync.Mutex
	closed bool
	onIt   map[*net.TCPConn]net.Conn // the server's ends and the clients'
	copies sync.WaitGroup
}

func newCrossing(b *bundle) *crossing {
	b.Helper()
	to, err := url.Parse(b.db.URL())
	b.must(to, err)
	var listen net.ListenConfig
	listener, err := listen.Listen(b.Context(), "tcp", "127.0.0.1:0")
	b.must(listener, err)
	c := &crossing{onIt: map[*net.TCPConn]net.Conn{}}
	target := to.Host
	to.Host = listener.Addr().String()
	c.dsn = to.String()
	over := make(chan struct{})
	b.Cleanup(func() { // behind the client's, which is made later
		_ = listener.Close()
		<-over
		c.cut()
	})
	go func() {
		defer close(over)
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			c.pass(in, target)
		}
	}()
	return c
}

func (c *crossing) pass(in net.Conn, target string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out, err := new(net.Dialer).DialContext(context.Background(), "tcp", target)
	server, ok := out.(*net.TCPConn)
	if err != nil || !ok || c.closed {
		_ = in.Close()
		if err == nil {
			_ = out.Close()
		}
		return
	}
	c.onIt[server] = in
	go func() {
		_, _ = io.Copy(server, in)
		_ = server.CloseWrite()
	}()
	c.copies.Go(func() {
		_, _ = io.Copy(in, server)
		_, _ = io.Copy(io.Discard, server) // until the server has nothing more to say
		_, _ = in.Close(), server.Close()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.onIt, server)
	})
}

// cut ends what is on its way, refuses what comes, and returns when the server has ended its sessions.
func (c *crossing) cut() {
	c.mu.Lock()
	c.closed = true
	for server, client := range c.onIt {
		_, _ = client.Close(), server.CloseWrite()
	}
	c.mu.Unlock()
	c.copies.Wait()
}

// open lets pass what comes from now on.
func (c *crossing) open() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = false
}
