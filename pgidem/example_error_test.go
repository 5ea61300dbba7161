package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// What to tell a caller whose key is in use right now.
func ExampleError() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{WaitBound: pgidem.NoWait})
	if err != nil {
		panic(err)
	}

	key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	_, err = pgidem.DoTx(ctx, client, key, func(context.Context, pgidem.Tx) (string, error) {
		// Meanwhile, in another request.
		_, err := pgidem.DoTx(context.Background(), client, key, func(context.Context, pgidem.Tx) (string, error) {
			return "never run", nil
		})
		var e *pgidem.Error
		if errors.Is(err, pgidem.ErrInProgress) && errors.As(err, &e) {
			fmt.Println("key:", e.Key)
			fmt.Println("retry after:", e.RetryAfter)
		}
		return "charged", nil
	})
	fmt.Println(err)

	// Output:
	// key: acct_42/charges#0bafe22156d2
	// retry after: 1s
	// <nil>
}
