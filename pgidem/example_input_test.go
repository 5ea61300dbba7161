package pgidem_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// The same key with another request is a mistake of the caller, who would get the answer to the first one.
func ExampleDoTx_input() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	type Request struct{ Cents int }
	charge := func(request Request) (pgidem.Result[string], error) {
		key := pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
		return pgidem.DoTx(ctx, client, key, func(ctx context.Context, tx pgidem.Tx) (string, error) {
			_, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', $1)", request.Cents)
			return fmt.Sprintf("charged %d", request.Cents), err
		}, &pgidem.TxOpts{Input: request})
	}

	first, err := charge(Request{Cents: 1999})
	fmt.Println(first.Value, err)
	_, err = charge(Request{Cents: 2999})
	fmt.Println("refused:", errors.Is(err, pgidem.ErrKeyReused))

	// Output:
	// charged 1999 <nil>
	// refused: true
}
