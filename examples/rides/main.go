// Command rides is a ride-hailing service: POST /rides creates a ride, charges the customer at a payment provider, and
// books the receipt. Kill it wherever you like, start it again, send the request again: the customer is charged once,
// and there is one ride and one receipt. Start the provider, a server or several, and ask for a ride:
//
//	go run github.com/pgidem/pgidem/examples/rides provider
//	DATABASE_URL=postgres://… go run github.com/pgidem/pgidem/examples/rides
//	curl -i http://127.0.0.1:8080/rides -H 'Idempotency-Key: 1' \
//	  -d '{"customer": "ann", "origin": "Alfama", "destination": "Belém", "card": "ok"}'
//	curl 'http://127.0.0.1:8081/charges?customer=ann'
//
// With the card "lost" the provider charges and hangs up without an answer. With "slow" it charges and lets the server
// wait, who has patience for 10 s: time enough to kill it. "busy" and "declined" are others (package provider). Then send
// the same again, to this server or another.
//
// What to read: ride.go is the operation, payments.go the call to the provider, problem.go what errors mean to an HTTP
// client, serve.go how to stop without losing anything.
//
// DATABASE_URL names the database, ADDR (127.0.0.1:8080, the provider 127.0.0.1:8081) where to listen, with port 0
// for any free port, PROVIDER_URL (http://127.0.0.1:8081) the provider, STOP_BOUND (10s) how long requests that are under
// way may still take when the server is told to stop. IGNORE_KEYS=1 makes the provider charge at every request.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/examples/rides/provider"
	"github.com/pgidem/pgidem/migrations"
	"github.com/pgidem/pgidem/pgidem"
)

// waitBound is how long a request waits for another one with its key before it is told to come back later.
const waitBound = time.Second

//go:embed schema.sql
var schema string

func main() {
	run := runRides
	if len(os.Args) > 1 && os.Args[1] == "provider" {
		run = runProvider
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "rides:", err)
		os.Exit(1) //nolint:gocritic // What stop would undo ends with the process.
	}
}

func runRides(ctx context.Context) error {
	databaseURL := os.Getenv("DATABASE_URL")
	if databaseURL == "" {
		return errors.New("DATABASE_URL is not set; set it to a database of yours, for example postgres://user:password@127.0.0.1:5432/rides")
	}
	stopBound, err := time.ParseDuration(cmp.Or(os.Getenv("STOP_BOUND"), "10s"))
	if err != nil {
		return fmt.Errorf("STOP_BOUND: %w", err)
	}
	config, err := pgidem.PoolConfig(databaseURL)
	if err != nil {
		return err
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrations.Up(ctx, pool); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, schema); err != nil {
		return fmt.Errorf("create the tables of the example: %w", err)
	}
	client, err := pgidem.New(pool, pgidem.Config{WaitBound: waitBound})
	if err != nil {
		return err
	}
	report, err := client.Probe(ctx)
	if err != nil {
		return err
	}
	for _, warning := range report.Warnings {
		fmt.Fprintln(os.Stderr, "warning:", warning)
	}
	listener, err := listen(ctx, "127.0.0.1:8080")
	if err != nil {
		return err
	}
	payments := newPayments(cmp.Or(os.Getenv("PROVIDER_URL"), "http://127.0.0.1:8081"))
	return serve(ctx, listener, newHandler(client, payments), stopBound, client.Close)
}

func runProvider(ctx context.Context) error {
	listener, err := listen(ctx, "127.0.0.1:8081")
	if err != nil {
		return err
	}
	p := &provider.Provider{IgnoreKeys: os.Getenv("IGNORE_KEYS") == "1"}
	return serve(ctx, listener, p, time.Second, func(context.Context) error { return nil })
}

// listen says where, for whoever has asked for any free port.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cmp.Or(os.Getenv("ADDR"), addr))
	if err == nil {
		fmt.Printf("listening on http://%s\n", listener.Addr())
	}
	return listener, err
}
