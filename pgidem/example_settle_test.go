package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// parkedCharge stands for an operation whose call got no answer. It returns the operation, which would call again, and what an operator
// needs to decide about it.
func parkedCharge(ctx context.Context, client *pgidem.Client, key pgidem.Key) (func(context.Context, *pgidem.Op) (string, error), pgidem.Decision) {
	fails := true
	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		charge, err := pgidem.Step(ctx, op, "charge", func(context.Context, pgidem.StepContext) (string, error) {
			fmt.Println("charge")
			if fails {
				return "", pgidem.Unknown(errors.New("504 Gateway Timeout"))
			}
			return "ch_2", nil
		})
		return "paid with " + charge, err
	}
	if _, err := pgidem.Do(ctx, client, key, fn); !errors.Is(err, pgidem.ErrParked) {
		panic(err)
	}
	fails = false
	record, err := pgidem.Lookup[string](ctx, client, key)
	if err != nil {
		panic(err)
	}
	fmt.Println(record.Parked.Message)
	return fn, pgidem.Decision{Claim: record.Claim, Reason: "looked it up at the provider's, ticket 7", Actor: "ann"}
}

// The operator ends the operation with a result of its own.
func ExampleSettle() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	fn, decision := parkedCharge(ctx, client, key)
	if err := pgidem.Settle(ctx, client, key, decision, "paid in cash"); err != nil {
		panic(err)
	}

	result, err := pgidem.Do(ctx, client, key, fn)
	fmt.Printf("%q %v\n", result.Value, err)

	// Output:
	// charge
	// step "charge": the outcome of the call is unknown
	// "paid in cash" <nil>
}

// The operator has found the charge at the provider's: the operation goes on behind the call.
func ExampleSettleStep() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	fn, decision := parkedCharge(ctx, client, key)
	if err := pgidem.SettleStep(ctx, client, key, decision, "charge", "ch_1"); err != nil {
		panic(err)
	}

	result, err := pgidem.Do(ctx, client, key, fn)
	fmt.Printf("%q %v\n", result.Value, err)

	// Output:
	// charge
	// step "charge": the outcome of the call is unknown
	// "paid with ch_1" <nil>
}

// The operator ends the operation with a failure.
func ExampleClient_SettleFailed() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	fn, decision := parkedCharge(ctx, client, key)
	if err := client.SettleFailed(ctx, key, decision, &pgidem.Failure{Code: "abandoned", Message: "the customer has gone"}); err != nil {
		panic(err)
	}

	result, err := pgidem.Do(ctx, client, key, fn)
	fmt.Printf("%q %v\n", result.Value, err)

	// Output:
	// charge
	// step "charge": the outcome of the call is unknown
	// "" abandoned: the customer has gone
}

// The operator vouches that nothing was charged: the call is made again.
func ExampleClient_Release() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	fn, decision := parkedCharge(ctx, client, key)
	if err := client.Release(ctx, key, decision); err != nil {
		panic(err)
	}

	result, err := pgidem.Do(ctx, client, key, fn)
	fmt.Printf("%q %v\n", result.Value, err)

	// Output:
	// charge
	// step "charge": the outcome of the call is unknown
	// charge
	// "paid with ch_2" <nil>
}
