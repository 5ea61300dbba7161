package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	relayChunk = 32 << 10
	// relayQueue is how many chunks may be under way in one direction, more than pgx ever sends without an answer.
	relayQueue = 1024
)

// relay is a slow network: a listener on loopback that passes everything on to the server, later.
type relay struct {
	delay    time.Duration
	listener net.Listener
	dial     func(context.Context) (net.Conn, error)
	running  sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   []net.Conn
}

// slowDown sends all connections that the site opens from now on through a relay.
func (s *site) slowDown(delay time.Duration) (*relay, error) {
	config := s.config.ConnConfig
	network, address := pgconn.NetworkAddress(config.Host, config.Port)
	direct := config.DialFunc
	r, err := newRelay(delay, func(ctx context.Context) (net.Conn, error) { return direct(ctx, network, address) })
	if err != nil {
		return nil, err
	}
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", r.listener.Addr().String())
	}
	return r, nil
}

func newRelay(delay time.Duration, dial func(context.Context) (net.Conn, error)) (*relay, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the slow network: %w", err)
	}
	r := &relay{delay: delay, listener: listener, dial: dial}
	r.running.Go(r.accept)
	return r, nil
}

// close cuts what is still connected, and waits. Close the pools before.
func (r *relay) close() error {
	err := r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for _, c := range r.open {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.running.Wait()
	return err
}

func (r *relay) accept() {
	for {
		near, err := r.listener.Accept()
		if err != nil {
			return // closed
		}
		far, err := r.dial(context.Background())
		if err != nil {
			_ = near.Close() // the client reports that it was not let in
			continue
		}
		if !r.keep(near, far) {
			continue
		}
		r.running.Go(func() { r.pipe(far, near) })
		r.running.Go(func() { r.pipe(near, far) })
	}
}

// keep remembers a pair for close, unless it came too late for it.
func (r *relay) keep(pair ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		for _, c := range pair {
			_ = c.Close()
		}
		return false
	}
	r.open = append(r.open, pair...)
	return true
}

type chunk struct {
	due   time.Time
	bytes []byte
}

// pipe passes on what from says, each piece the delay after it came. The end of one side ends the other.
func (r *relay) pipe(to, from net.Conn) {
	under := make(chan chunk, relayQueue)
	r.running.Go(func() {
		defer close(under)
		for {
			buf := make([]byte, relayChunk)
			n, err := from.Read(buf)
			if n > 0 {
				under <- chunk{time.Now().Add(r.delay), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	})
	defer func() { _ = to.Close() }()
	alarm, err := newAlarm()
	for c := range under {
		if err == nil {
			err = errors.Join(alarm.wait(time.Until(c.due)), writeAll(to, c.bytes))
		}
		if err != nil {
			_ = from.Close() // its reader ends, and with it this loop
		}
	}
	if alarm != nil {
		alarm.close()
	}
}

func writeAll(to io.Writer, bytes []byte) error {
	_, err := to.Write(bytes)
	return err
}
