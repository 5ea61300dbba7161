package pgidem_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem"
)

// Statements that are known up front make the whole operation one round trip.
func ExampleDoBatch() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	charge := func(b *pgx.Batch) {
		b.Queue("INSERT INTO charges VALUES ($1, $2)", "acct_42", 1999)
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	for range 2 {
		result, err := pgidem.DoBatch(ctx, client, key, "charged", charge)
		fmt.Println(result.Value, result.Replayed, err)
	}

	var charges int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM charges").Scan(&charges); err != nil {
		panic(err)
	}
	fmt.Println("charges:", charges)

	// Output:
	// charged false <nil>
	// charged true <nil>
	// charges: 1
}
