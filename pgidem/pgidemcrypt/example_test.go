package pgidemcrypt_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
	"github.com/pgidem/pgidem/pgidem/pgidemcrypt"
)

// What is saved can be read by those who have the scope's key. When the key is destroyed, the answer is gone, and the
// operation is still not done twice.
func Example() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	keys := new(pgidemcrypt.Keyring)
	keys.Rotate("tenant-42") // in a program: store the key that it returns
	sealer, err := pgidemcrypt.New(keys)
	if err != nil {
		panic(err)
	}
	client, err := pgidem.New(pool, pgidem.Config{Sealer: sealer})
	if err != nil {
		panic(err)
	}

	key := pgidem.Key{Scope: "tenant-42", ID: "order-1"}
	order := func() (pgidem.Result[string], error) {
		return pgidem.DoTx(ctx, client, key, func(context.Context, pgidem.Tx) (string, error) {
			fmt.Println("(the operation runs)")
			return "deliver to Main Street 1", nil
		})
	}
	for range 2 {
		result, err := order()
		fmt.Println(result.Value, err)
	}

	var found bool
	const search = "SELECT position('Main Street' in encode(result, 'escape')) > 0 FROM idempotency_keys"
	if err := pool.QueryRow(ctx, search).Scan(&found); err != nil {
		panic(err)
	}
	fmt.Println("found in the table:", found)

	keys.DestroyScope("tenant-42")
	_, err = order()
	fmt.Println("destroyed:", errors.Is(err, pgidem.ErrResult), errors.Is(err, pgidemcrypt.ErrKeyDestroyed))

	// Output:
	// (the operation runs)
	// deliver to Main Street 1 <nil>
	// deliver to Main Street 1 <nil>
	// found in the table: false
	// destroyed: true true
}
