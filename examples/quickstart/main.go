// Command quickstart is an HTTP server whose POST /charges is safe to retry. Start it, then charge an account:
//
//	DATABASE_URL=postgres://… go run github.com/pgidem/pgidem/examples/quickstart
//	curl -i http://127.0.0.1:8080/charges -H 'Idempotency-Key: order-17' -d '{"account": "acct_42", "amount_cents": 1000}'
//	curl -i http://127.0.0.1:8080/accounts/acct_42
//
// Send the charge again, twice at once if you like, or restart the server in between: the account is charged once and
// each answer is the same. Send another amount with the same key: it is refused.
//
// What to read: charge.go is the operation, problem.go what its errors mean to an HTTP client.
//
// DATABASE_URL names the database; ADDR (127.0.0.1:8080) where to listen, with port 0 for any free port.
package main

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/migrations"
	"github.com/pgidem/pgidem/pgidem"
)

// stopBound is how long requests that are under way may still take when the server is told to stop.
const stopBound = 10 * time.Second

//go:embed schema.sql
var schema string

func main() {
	if err := run(os.Getenv("DATABASE_URL"), cmp.Or(os.Getenv("ADDR"), "127.0.0.1:8080")); err != nil {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		os.Exit(1)
	}
}

func run(databaseURL, addr string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if databaseURL == "" {
		return errors.New("DATABASE_URL is not set; set it to a database of yours, for example postgres://user:password@127.0.0.1:5432/shop")
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
	client, err := pgidem.New(pool, pgidem.Config{})
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
	return serve(ctx, addr, client, newHandler(client, pool))
}

// serve answers requests until ctx ends, and returns when the last one is answered.
func serve(ctx context.Context, addr string, client *pgidem.Client, handler http.Handler) error {
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	fmt.Printf("listening on http://%s\n", listener.Addr())
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopBound)
	defer cancel()
	return errors.Join(server.Shutdown(bounded), client.Close(bounded))
}
