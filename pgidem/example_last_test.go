package pgidem_test

import (
	"context"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// A statement whose answer is not needed travels with the result and COMMIT, which saves a round trip.
func ExampleTx_Last() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	result, err := pgidem.DoTx(ctx, client, key, func(_ context.Context, tx pgidem.Tx) (string, error) {
		return "charged", tx.Last("INSERT INTO charges VALUES ($1, $2)", "acct_42", 1999)
	})
	fmt.Println(result.Value, err)

	var cents int
	if err := pool.QueryRow(ctx, "SELECT sum(cents) FROM charges").Scan(&cents); err != nil {
		panic(err)
	}
	fmt.Println("cents:", cents)

	// Output:
	// charged <nil>
	// cents: 1999
}
