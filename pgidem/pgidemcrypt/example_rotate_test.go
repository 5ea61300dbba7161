package pgidemcrypt_test

import (
	"context"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
	"github.com/pgidem/pgidem/pgidem/pgidemcrypt"
)

// An old key is destroyed before the answers that it sealed have expired.
func ExampleKeyring_Rotate() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	keys := new(pgidemcrypt.Keyring)
	old := keys.Rotate("tenant-42")
	sealer, err := pgidemcrypt.New(keys)
	if err != nil {
		panic(err)
	}
	client, err := pgidem.New(pool, pgidem.Config{Sealer: sealer})
	if err != nil {
		panic(err)
	}
	charge := func(id string) {
		result, err := pgidem.DoTx(ctx, client, pgidem.Key{Scope: "tenant-42", ID: id},
			func(context.Context, pgidem.Tx) (string, error) { return "charged " + id, nil })
		fmt.Printf("%s, replayed: %v, error: %v\n", result.Value, result.Replayed, err)
	}

	charge("order-1")
	keys.Rotate("tenant-42")
	charge("order-1") // opened with the old key
	charge("order-2") // sealed with the new one

	for { // until a pass finds nothing more to do
		report, err := client.Reseal(ctx, "tenant-42")
		if err != nil {
			panic(err)
		}
		fmt.Println("resealed:", report.Resealed, "kept:", report.Kept, "lost:", report.Lost)
		if report.Resealed == 0 && report.Missed == 0 {
			break
		}
	}
	keys.Destroy("tenant-42", old.ID)
	charge("order-1")

	// Output:
	// charged order-1, replayed: false, error: <nil>
	// charged order-1, replayed: true, error: <nil>
	// charged order-2, replayed: false, error: <nil>
	// resealed: 1 kept: 1 lost: 0
	// resealed: 0 kept: 2 lost: 0
	// charged order-1, replayed: true, error: <nil>
}
