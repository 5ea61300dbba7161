package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// A definite "no" is an answer too: it is saved, and a retry gets it without asking again.
func ExamplePermanent() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	runs := 0
	charge := func(context.Context, pgidem.Tx) (string, error) {
		runs++
		return "", pgidem.Permanent(&pgidem.Failure{Code: "card_declined", Message: "insufficient funds"})
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	for range 2 {
		result, err := pgidem.DoTx(ctx, client, key, charge)
		var failure *pgidem.Failure
		if errors.As(err, &failure) {
			fmt.Println(failure.Code, "replayed:", result.Replayed)
		}
	}
	fmt.Println("runs:", runs)

	// Output:
	// card_declined replayed: false
	// card_declined replayed: true
	// runs: 1
}
