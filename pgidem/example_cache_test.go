package pgidem_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pgidem/pgidem/pgidem"
)

// Retries that reach the same process are answered from its memory, even while the database cannot be reached.
func ExampleNewMemoryCache() {
	ctx := context.Background()
	pool := openPool(ctx)
	client, err := pgidem.New(pool, pgidem.Config{
		Cache:       pgidem.NewMemoryCache(64 << 20), // 64 MiB
		CacheMaxAge: time.Minute,                     // so long does it go on after a Forget of another process
	})
	if err != nil {
		panic(err)
	}

	charge := func(id string) (pgidem.Result[string], error) {
		key := pgidem.Key{Scope: "acct_42/charges", ID: id}
		return pgidem.DoTx(ctx, client, key, func(ctx context.Context, tx pgidem.Tx) (string, error) {
			_, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', 1999)")
			return "charged", err
		})
	}
	first, err := charge("order-1")
	fmt.Println(first.Value, "replayed:", first.Replayed, err)

	pool.Close()
	retry, err := charge("order-1")
	fmt.Println(retry.Value, "replayed:", retry.Replayed, err)
	_, err = charge("order-2")
	fmt.Println("a new order:", errors.Is(err, pgidem.ErrUnavailable))

	// Output:
	// charged replayed: false <nil>
	// charged replayed: true <nil>
	// a new order: true
}
