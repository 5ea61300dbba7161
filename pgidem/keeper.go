package pgidem

import (
	"context"
	"errors"
	"time"
)

// rotationPause is how long a rotation waits between two looks at what is not tagged yet.
const rotationPause = 50 * time.Millisecond

// keep holds an instance for as long as the client is open or something runs on it. It, the tagger and the janitor are the client's only
// goroutines, and they begin with the first operation of several steps.
func (l *liveness) keep() {
	defer close(l.done)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		l.client.janitor.work(ctx)
	}()
	tagged := make(chan struct{})
	go func() {
		defer close(tagged)
		l.client.tagger.work(ctx)
	}()
	defer func() { <-tagged }()
	for failed := 0; ctx.Err() == nil; {
		in, err := l.connect(ctx)
		if err != nil {
			failed++
			l.publish(nil, true, err)
			_ = pause(ctx, failed)
			continue
		}
		failed = 0
		l.publish(in, true, nil)
		for in != nil {
			l.client.tagger.wake()
			in = l.watch(ctx, in)
		}
	}
	l.publish(nil, false, nil)
}

// watch returns when the instance is lost, with its successor where it is only replaced.
func (l *liveness) watch(ctx context.Context, in *instance) (next *instance) {
	defer in.close()
	rotation := time.NewTimer(l.client.config.RotateAfter)
	defer rotation.Stop()
	for {
		if err := l.listen(ctx, in); err != nil {
			if ctx.Err() == nil {
				l.publish(nil, false, nil)
			}
			return nil
		}
		select {
		case <-rotation.C:
			if replaced := l.rotate(ctx, in); replaced != nil {
				return replaced
			}
			rotation.Reset(l.client.config.RotateAfter)
		default:
		}
	}
}

// listen waits for PingInterval and then asks whether the server is there. A connection that ends meanwhile is noticed at once.
func (l *liveness) listen(ctx context.Context, in *instance) error {
	if !in.quiet(ctx, l.client.config.PingInterval) {
		return errors.New("the connection has ended")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return in.ping(ctx)
}

// ping sends an empty statement, which takes no snapshot.
func (in *instance) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pingPatience)
	defer cancel()
	_, err := in.conn.Exec(ctx, "").ReadAll()
	return err
}

// rotate replaces an instance by a new one: transactions that are open for days are ended by people who look for such, and poolers
// and proxies end connections that are old. The old lock is held until every row is tagged anew.
func (l *liveness) rotate(ctx context.Context, old *instance) *instance {
	next, err := l.connect(ctx)
	if err != nil {
		return nil // the old one still works; the next rotation tries again
	}
	l.publish(next, false, nil)
	l.client.tagger.wake()
	for pinged := time.Now(); l.client.registry.behind(next.generation) && !old.conn.IsClosed(); {
		if !next.quiet(ctx, rotationPause) || ctx.Err() != nil {
			break
		}
		if time.Since(pinged) > l.client.config.PingInterval {
			if next.ping(ctx) != nil {
				break
			}
			pinged = time.Now()
		}
	}
	return next
}

// quiet waits, and reports whether the connection has stayed.
func (in *instance) quiet(ctx context.Context, wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for ctx.Err() == nil {
		if err := in.conn.WaitForNotification(ctx); err != nil && ctx.Err() == nil {
			return false
		}
	}
	return !in.conn.IsClosed()
}
