package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// The attempts of an operation are used up. When the cause is gone, an operator lets it go on with all of them.
func ExampleClient_Resume() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	providerIsDown := true
	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		return pgidem.Step(ctx, op, "charge", func(context.Context, pgidem.StepContext) (string, error) {
			if providerIsDown {
				return "", errors.New("503 Service Unavailable")
			}
			return "ch_1", nil
		})
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	for range 3 {
		_, err := pgidem.Do(ctx, client, key, fn, &pgidem.DoOpts{MaxAttempts: 2})
		fmt.Println("parked:", errors.Is(err, pgidem.ErrParked))
	}

	record, err := pgidem.Lookup[string](ctx, client, key)
	if err != nil {
		panic(err)
	}
	fmt.Println(record.Parked.Message)
	providerIsDown = false
	err = client.Resume(ctx, key, pgidem.Decision{Claim: record.Claim, Reason: "the provider is up again", Actor: "ann"})
	if err != nil {
		panic(err)
	}
	result, err := pgidem.Do(ctx, client, key, fn)
	fmt.Println(result.Value, err, "attempt:", result.Attempt)

	// Output:
	// parked: false
	// parked: false
	// parked: true
	// its attempts are used up
	// ch_1 <nil> attempt: 3
}
