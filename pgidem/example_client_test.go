package pgidem_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/pgidem"
)

func ExampleNew() {
	ctx := context.Background()
	config, err := pgidem.PoolConfig(databaseURL())
	if err != nil {
		panic(err)
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		panic(err)
	}
	defer pool.Close()

	client, err := pgidem.New(pool, pgidem.Config{
		TTL:        7 * 24 * time.Hour,
		ValidateID: pgidem.ValidateUUID,
	})
	if err != nil {
		panic(err)
	}
	_, err = client.Probe(ctx)
	fmt.Println("fit:", err == nil)

	// Output:
	// fit: true
}

func ExampleNew_refused() {
	pool := openPool(context.Background())
	defer pool.Close()

	_, err := pgidem.New(pool, pgidem.Config{TTL: -time.Hour, Reruns: -1})
	fmt.Println(err)

	// Output:
	// pgidem: invalid configuration: TTL is -1h0m0s, the least that works is 1µs
	// Reruns is -1, the least that works is 1
}

func ExampleClient_Probe() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	// At start-up, to fail there and not in the first request.
	report, err := client.Probe(ctx)
	if err != nil {
		panic(err)
	}
	fmt.Printf("pooler: %q, query mode: %s, warnings: %q\n", report.Pooler, report.QueryMode, report.Warnings)

	if _, err := pool.Exec(ctx, "ALTER TABLE idempotency_keys RENAME TO somewhere_else"); err != nil {
		panic(err)
	}
	_, err = client.Probe(ctx)
	fmt.Println("migrations are missing:", errors.Is(err, pgidem.ErrSchema))

	// Output:
	// pooler: "", query mode: cache_statement, warnings: []
	// migrations are missing: true
}

func ExampleClient_Close() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	// At shutdown: no new calls, and at most 30 s for those that run. Then the pool.
	closeCtx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	fmt.Println("close:", client.Close(closeCtx))

	_, err = pgidem.Lookup[string](ctx, client, pgidem.Key{Scope: "acct_42/charges", ID: "order-1"})
	fmt.Println("refused:", errors.Is(err, pgidem.ErrClosed))

	// Output:
	// close: <nil>
	// refused: true
}
