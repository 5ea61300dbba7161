package pgidem_test

import (
	"context"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// The last step saves the result of the whole operation in its own transaction.
func ExampleFinishTx() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		charge, err := pgidem.Step(ctx, op, "charge", func(context.Context, pgidem.StepContext) (string, error) { return "ch_1", nil })
		if err != nil {
			return "", err
		}
		return pgidem.FinishTx(ctx, op, "receipt", func(ctx context.Context, tx pgidem.Tx) (string, error) {
			_, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', 1999)")
			return "receipt for " + charge, err
		})
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	for range 2 {
		result, err := pgidem.Do(ctx, client, key, fn)
		fmt.Println(result.Value, err, "replayed:", result.Replayed)
	}

	// Output:
	// receipt for ch_1 <nil> replayed: false
	// receipt for ch_1 <nil> replayed: true
}
