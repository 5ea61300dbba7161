package pgidem_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

// A provider that can be asked settles what a lost answer has left open, without an operator.
func ExampleReconciled() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	charges := map[string]string{} // the provider's, by idempotency key
	opts := &pgidem.StepOpts[string]{
		Timeout: time.Second, // the provider is not asked before it is over
		Reconcile: func(_ context.Context, s pgidem.StepContext) (pgidem.Reconciled[string], error) {
			charge, found := charges[s.Key()]
			if !found { // and, as its deadline is over, it will not be made any more
				return pgidem.Reconciled[string]{Outcome: pgidem.ReconcileAbsent}, nil
			}
			return pgidem.Reconciled[string]{Outcome: pgidem.ReconcileDone, Value: charge}, nil
		},
	}
	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		return pgidem.Step(ctx, op, "charge", func(_ context.Context, s pgidem.StepContext) (string, error) {
			fmt.Println("charge")
			charges[s.Key()] = "ch_1"
			return "", pgidem.Unknown(errors.New("504 Gateway Timeout"))
		}, opts)
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	for range 2 {
		result, err := pgidem.Do(ctx, client, key, fn)
		fmt.Printf("%q %v\n", result.Value, err)
	}

	// Output:
	// charge
	// "" 504 Gateway Timeout
	// "ch_1" <nil>
}
