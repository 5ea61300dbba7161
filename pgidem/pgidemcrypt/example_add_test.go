package pgidemcrypt_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
	"github.com/pgidem/pgidem/pgidem/pgidemcrypt"
)

// A program loads a scope's keys at its start, the oldest first, and what was sealed before it was started opens.
func ExampleKeyring_Add() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()

	var stored []pgidemcrypt.ScopeKey // stands for where the keys are kept, which is not this database
	start := func() (*pgidem.Client, *pgidemcrypt.Keyring) {
		keys := new(pgidemcrypt.Keyring)
		for _, key := range stored {
			if err := keys.Add("tenant-42", key); err != nil {
				panic(err)
			}
		}
		sealer, err := pgidemcrypt.New(keys)
		if err != nil {
			panic(err)
		}
		client, err := pgidem.New(pool, pgidem.Config{Sealer: sealer})
		if err != nil {
			panic(err)
		}
		return client, keys
	}
	charge := func(client *pgidem.Client, id string) {
		result, err := pgidem.DoTx(ctx, client, pgidem.Key{Scope: "tenant-42", ID: id},
			func(context.Context, pgidem.Tx) (string, error) { return "charged " + id, nil })
		fmt.Printf("%s, replayed: %v, error: %v\n", result.Value, result.Replayed, err)
	}

	client, keys := start()
	stored = append(stored, keys.Rotate("tenant-42"))
	charge(client, "order-1")
	stored = append(stored, keys.Rotate("tenant-42"))

	client, keys = start()
	charge(client, "order-1")
	current, err := keys.Current(ctx, "tenant-42")
	fmt.Println("the newest is the current one:", current.ID == stored[1].ID, err)
	err = keys.Add("tenant-42", stored[0])
	fmt.Println("added twice is refused:", errors.Is(err, pgidem.ErrConfig))

	// Output:
	// charged order-1, replayed: false, error: <nil>
	// charged order-1, replayed: true, error: <nil>
	// the newest is the current one: true <nil>
	// added twice is refused: true
}
