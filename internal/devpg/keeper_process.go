package devpg

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// stopBound is how long the keeper tries to remove what it started.
const stopBound = 2 * time.Minute

// In a keeper this runs before main, before flags are parsed and before any package that imports devpg is
// initialised; nothing of the program itself may happen in it.
func init() {
	if os.Getenv(envKeeper) == "" {
		return
	}
	os.Exit(keep())
}

// keep is the keeper process: start a server, hold it until the pipe from the parent ends, remove it.
func keep() int {
	_ = os.Unsetenv(envKeeper) // or what it starts could be a keeper too
	// Writing to a parent that is gone has to be an error, not the end: the server would stay.
	signal.Ignore(syscall.SIGPIPE)
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()

	orders := make(chan string, 1)
	go func() {
		order, _ := io.ReadAll(os.Stdin)
		orders <- string(order)
		cancel()
	}()

	lines := json.NewEncoder(os.Stdout)
	send := func(m message) { _ = lines.Encode(m) }
	fail := func(err error) int {
		send(message{Error: err.Error()})
		return 1
	}

	server, err := hold(ctx, func(text string) { send(message{Note: text}) })
	if err != nil {
		return fail(err)
	}
	send(message{Ready: &server.instance})

	<-ctx.Done()
	stopCtx, stopped := context.WithTimeout(context.Background(), stopBound)
	defer stopped()
	select {
	case order := <-orders:
		if order == orderKeep {
			if err := server.pooler.end(stopCtx); err != nil {
				return fail(fmt.Errorf("stop PgBouncer: %w", err))
			}
			return 0
		}
	default: // SIGTERM
	}
	if err := server.stop(stopCtx); err != nil {
		return fail(fmt.Errorf("stop PostgreSQL %s: %w", server.Where, err))
	}
	return 0
}

// hold starts a server and begins a run on it; stopping the one ends the other.
func hold(ctx context.Context, note func(string)) (*running, error) {
	server, err := firstWay(func(w way) (*running, error) { return w.start(ctx, note) })
	if err != nil {
		return nil, err
	}
	run, err := beginRun(ctx, server.URL, server.lasting)
	if err != nil {
		return nil, errors.Join(err, server.stop(context.WithoutCancel(ctx)))
	}
	server.Run = run.id
	stop := server.stop
	server.stop = func(ctx context.Context) error {
		err := server.pooler.end(ctx) // first: it is connected to the databases
		if server.lasting {
			err = errors.Join(err, run.drop(ctx))
		}
		return errors.Join(err, run.end(ctx), stop(ctx))
	}
	pooler, err := startPooler(ctx, server.URL, note)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("PgBouncer in front of the server: %w", err), server.stop(context.WithoutCancel(ctx)))
	}
	if pooler != nil {
		server.pooler, server.Pooler, server.PoolerWhere, server.PoolerHolder = pooler, pooler.url, pooler.where, pooler.holder
	}
	return server, nil
}
