package pgidem_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

func ExampleLookup() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	_, err = pgidem.Lookup[string](ctx, client, key)
	fmt.Println("before:", errors.Is(err, pgidem.ErrNotFound))

	charge := func(context.Context, pgidem.Tx) (string, error) { return "charged", nil }
	if _, err := pgidem.DoTx(ctx, client, key, charge); err != nil {
		panic(err)
	}

	record, err := pgidem.Lookup[string](ctx, client, key)
	if err != nil {
		panic(err)
	}
	fmt.Println("after:", record.State, record.Value)
	fmt.Println("kept for:", record.Expires.Sub(record.Finished).Round(time.Second))

	// Output:
	// before: true
	// after: succeeded charged
	// kept for: 24h0m0s
}
