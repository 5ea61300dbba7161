package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// The last seat is gone when the card is charged already. What was done is taken back, the last step first, and every caller gets the same
// failure.
func ExampleStepOpts_undo() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		_, err := pgidem.StepTx(ctx, op, "reserve", func(ctx context.Context, tx pgidem.Tx) (int, error) {
			_, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', 1999)")
			return 1999, err
		}, &pgidem.StepOpts[int]{UndoTx: func(ctx context.Context, tx pgidem.Tx, cents int) error {
			fmt.Println("take back the reservation of", cents)
			_, err := tx.Exec(ctx, "DELETE FROM charges WHERE account = 'acct_42'")
			return err
		}})
		if err != nil {
			return "", err
		}
		_, err = pgidem.Step(ctx, op, "charge", func(context.Context, pgidem.StepContext) (string, error) { return "ch_1", nil },
			&pgidem.StepOpts[string]{Undo: func(_ context.Context, _ pgidem.StepContext, charge string) error {
				fmt.Println("refund", charge)
				return nil
			}})
		if err != nil {
			return "", err
		}
		return "", pgidem.Permanent(&pgidem.Failure{Code: "sold_out", Message: "the last seat is gone"})
	}
	key := pgidem.Key{Scope: "acct_42/tickets", ID: "order-1"}
	for range 2 {
		result, err := pgidem.Do(ctx, client, key, fn)
		var failure *pgidem.Failure
		fmt.Println(errors.As(err, &failure), failure, "replayed:", result.Replayed)
	}

	// Output:
	// refund ch_1
	// take back the reservation of 1999
	// true sold_out: the last seat is gone replayed: false
	// true sold_out: the last seat is gone replayed: true
}
