package pgidem_test

import (
	"context"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// A customer presses "pay" twice. The second request gets the first one's receipt, and the account is charged once.
func ExampleDoTx() {
	ctx := context.Background()
	pool := openPool(ctx) // the *pgxpool.Pool of your program
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	type Receipt struct{ Cents int }
	charge := func(ctx context.Context, tx pgidem.Tx) (Receipt, error) {
		_, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', 1999)")
		return Receipt{Cents: 1999}, err
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "0198c2f4-7d1e-7a3b-9c5d-0123456789ab"}
	for range 2 {
		result, err := pgidem.DoTx(ctx, client, key, charge)
		if err != nil {
			panic(err)
		}
		fmt.Println("charged:", result.Value.Cents, "replayed:", result.Replayed)
	}

	var charges int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM charges").Scan(&charges); err != nil {
		panic(err)
	}
	fmt.Println("charges:", charges)

	// Output:
	// charged: 1999 replayed: false
	// charged: 1999 replayed: true
	// charges: 1
}
