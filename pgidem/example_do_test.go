package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// A ride is booked in the database, charged at a payment provider, and confirmed. The provider is down at first; the retry goes on behind
// the booking.
func ExampleDo() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	defer client.Close(ctx) // before the pool: it ends the client's liveness connection

	providerIsDown := true
	book := func(ctx context.Context, op *pgidem.Op) (string, error) {
		price, err := pgidem.StepTx(ctx, op, "create_ride", func(ctx context.Context, tx pgidem.Tx) (int, error) {
			fmt.Println("create the ride")
			_, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', 0)")
			return 1999, err
		})
		if err != nil {
			return "", err
		}
		charge, err := pgidem.Step(ctx, op, "charge", func(ctx context.Context, s pgidem.StepContext) (string, error) {
			fmt.Println("charge the card")
			if providerIsDown { // an HTTP request with s.Key() as its Idempotency-Key
				return "", errors.New("503 Service Unavailable")
			}
			return "ch_1", nil
		})
		if err != nil {
			return "", err
		}
		return pgidem.FinishTx(ctx, op, "receipt", func(ctx context.Context, tx pgidem.Tx) (string, error) {
			fmt.Println("write the receipt")
			_, err := tx.Exec(ctx, "UPDATE charges SET cents = $1 WHERE account = 'acct_42'", price)
			return "paid with " + charge, err
		})
	}

	key := pgidem.Key{Scope: "acct_42/rides", ID: "order-1"}
	for range 3 {
		result, err := pgidem.Do(ctx, client, key, book)
		fmt.Printf("%q, %v; resumed after %q, replayed: %t\n", result.Value, err, result.ResumedAfter, result.Replayed)
		providerIsDown = false
	}

	// Output:
	// create the ride
	// charge the card
	// "", 503 Service Unavailable; resumed after "", replayed: false
	// charge the card
	// write the receipt
	// "paid with ch_1", <nil>; resumed after "create_ride", replayed: false
	// "paid with ch_1", <nil>; resumed after "", replayed: true
}
