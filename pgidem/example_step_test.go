package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// A call is recorded when it has succeeded. What fails is called again by the retry, and what is recorded is not.
func ExampleStep() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	mailIsDown := true
	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		charge, err := pgidem.Step(ctx, op, "charge", func(context.Context, pgidem.StepContext) (string, error) {
			fmt.Println("charge")
			return "ch_1", nil
		})
		if err != nil {
			return "", err
		}
		return pgidem.Step(ctx, op, "mail", func(context.Context, pgidem.StepContext) (string, error) {
			fmt.Println("mail")
			if mailIsDown {
				return "", errors.New("try later")
			}
			return "mailed " + charge, nil
		})
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	_, err = pgidem.Do(ctx, client, key, fn)
	fmt.Println(err)
	mailIsDown = false
	result, err := pgidem.Do(ctx, client, key, fn)
	fmt.Println(result.Value, err)

	// Output:
	// charge
	// mail
	// try later
	// mail
	// mailed ch_1 <nil>
}

// The service called recognises the key, which every attempt sends along.
func ExampleStepContext_Key() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx)

	charged := map[string]bool{} // by the provider, which then loses its answer
	fn := func(ctx context.Context, op *pgidem.Op) (string, error) {
		return pgidem.Step(ctx, op, "charge", func(_ context.Context, s pgidem.StepContext) (string, error) {
			if charged[s.Key()] {
				return "charged already", nil
			}
			charged[s.Key()] = true
			return "", errors.New("connection reset")
		})
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	for range 2 {
		result, err := pgidem.Do(ctx, client, key, fn)
		fmt.Printf("%q %v\n", result.Value, err)
	}
	fmt.Println("charges:", len(charged))

	// Output:
	// "" connection reset
	// "charged already" <nil>
	// charges: 1
}
