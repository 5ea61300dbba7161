package pgidem_test

import (
	"context"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
	"github.com/pgidem/pgidem/pgidem/pgidemcrypt"
)

// A scope's answers get the seal of a new key, in short transactions, and a second pass finds nothing more to do.
func ExampleClient_Reseal() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	keys := new(pgidemcrypt.Keyring)
	old := keys.Rotate("acct_42")
	sealer, err := pgidemcrypt.New(keys)
	if err != nil {
		panic(err)
	}
	client, err := pgidem.New(pool, pgidem.Config{Sealer: sealer})
	if err != nil {
		panic(err)
	}
	charge := func(id string) {
		result, err := pgidem.DoTx(ctx, client, pgidem.Key{Scope: "acct_42", ID: id},
			func(context.Context, pgidem.Tx) (string, error) { return "charged " + id, nil })
		fmt.Println(result.Value, "replayed:", result.Replayed, "error:", err)
	}
	for _, id := range []string{"order-1", "order-2", "order-3"} {
		charge(id)
	}

	keys.Rotate("acct_42")
	for {
		report, err := client.Reseal(ctx, "acct_42", &pgidem.ResealOpts{
			Batch:    2,
			Progress: func(r pgidem.ResealReport) { fmt.Println("up to", r.Last) }, // to begin After it, if this is interrupted
		})
		if err != nil {
			panic(err)
		}
		fmt.Println("resealed:", report.Resealed, "kept:", report.Kept)
		if report.Resealed == 0 && report.Missed == 0 {
			break
		}
	}
	keys.Destroy("acct_42", old.ID)
	charge("order-3")

	// Output:
	// charged order-1 replayed: false error: <nil>
	// charged order-2 replayed: false error: <nil>
	// charged order-3 replayed: false error: <nil>
	// up to order-2
	// up to order-3
	// resealed: 3 kept: 0
	// up to order-2
	// up to order-3
	// resealed: 0 kept: 3
	// charged order-3 replayed: true error: <nil>
}
