package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"
)

// TestRelay sends something there and back: it arrives whole, in order, and not before both delays are over.
func TestRelay(t *testing.T) {
	t.Parallel()
	const delay = 5 * time.Millisecond
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	ended := make(chan error, 1)
	go func() {
		c, err := echo.Accept()
		if err == nil {
			_, err = io.Copy(c, c)
			_ = c.Close()
		}
		ended <- err
	}()
	var d net.Dialer
	r, err := newRelay(delay, func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", echo.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := d.DialContext(t.Context(), "tcp", r.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	sent := bytes.Repeat([]byte("a round trip, delayed. "), 10_000)
	begin := time.Now()
	go func() { _, _ = client.Write(sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 2*delay {
		t.Errorf("the last byte came back after %v, less than two delays of %v", took, delay)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what came back is not what was sent")
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("the server's end of the connection ended with %v, not with the client's end", err)
	}
	if err := r.close(); err != nil {
		t.Error(err)
	}
}
