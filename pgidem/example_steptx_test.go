package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// A step's writes and its record are committed together. StartsWithTx saves a commit where it is the first.
func ExampleStepTx() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	runs := 0
	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		order, err := pgidem.StepTx(ctx, op, "order", func(ctx context.Context, tx pgidem.Tx) (string, error) {
			_, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', 1999)")
			return "order-1", err
		})
		if err != nil {
			return "", err
		}
		if runs++; runs == 1 {
			return "", errors.New("interrupted")
		}
		return order + " is on its way", nil
	}
	key := pgidem.Key{Scope: "acct_42/orders", ID: "cart-7"}
	for range 2 {
		result, err := pgidem.Do(ctx, client, key, fn, &pgidem.DoOpts{StartsWithTx: true})
		fmt.Printf("%q %v\n", result.Value, err)
	}
	var orders int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM charges").Scan(&orders); err != nil {
		panic(err)
	}
	fmt.Println("orders:", orders)

	// Output:
	// "" interrupted
	// "order-1 is on its way" <nil>
	// orders: 1
}
