package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// After a timeout nobody knows whether the card was charged. The operation is parked, and does not call again before somebody has found out.
func ExampleUnknown() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	calls := 0
	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		return pgidem.Step(ctx, op, "charge", func(context.Context, pgidem.StepContext) (string, error) {
			calls++
			return "", pgidem.Unknown(errors.New("504 Gateway Timeout"))
		})
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	for range 2 {
		_, err = pgidem.Do(ctx, client, key, fn)
		fmt.Println("parked:", errors.Is(err, pgidem.ErrParked))
	}
	record, err := pgidem.Lookup[string](ctx, client, key)
	if err != nil {
		panic(err)
	}
	fmt.Println(record.State+":", record.Parked.Message)
	fmt.Println("calls:", calls)

	// Output:
	// parked: true
	// parked: true
	// parked: step "charge": the outcome of the call is unknown
	// calls: 1
}
