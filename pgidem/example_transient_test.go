package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// An error rolls everything back and leaves the key free, so that a retry runs the function again.
func ExampleDoTx_transientError() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	errBusy := errors.New("the ledger is busy")
	tries := 0
	charge := func(ctx context.Context, tx pgidem.Tx) (string, error) {
		if _, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', 1999)"); err != nil {
			return "", err
		}
		if tries++; tries == 1 {
			return "", errBusy
		}
		return "charged", nil
	}
	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	for range 2 {
		result, err := pgidem.DoTx(ctx, client, key, charge)
		fmt.Printf("%q %v\n", result.Value, err)
	}

	var charges int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM charges").Scan(&charges); err != nil {
		panic(err)
	}
	fmt.Println("charges:", charges)

	// Output:
	// "" the ledger is busy
	// "charged" <nil>
	// charges: 1
}
