package pgidem_test

import (
	"context"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// An operator has found out that an answer was wrong, and lets the next retry run again.
func ExampleClient_Forget() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	runs := 0
	quote := func(context.Context, pgidem.Tx) (int, error) { runs++; return runs, nil }
	key := pgidem.Key{Scope: "acct_42/quotes", ID: "order-1"}
	for range 2 {
		result, err := pgidem.DoTx(ctx, client, key, quote)
		if err != nil {
			panic(err)
		}
		fmt.Println("quote:", result.Value)
		if err := client.Forget(ctx, key); err != nil {
			panic(err)
		}
	}

	// Output:
	// quote: 1
	// quote: 2
}
