package pgidem_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem"
)

// Only a reference is saved with the key, here the account. First answer and replay are read from the table of charges.
func ExampleRehydrate() {
	ctx := context.Background()
	pool := openPool(ctx)
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	type Charge struct {
		Account string
		Cents   int64
	}
	insert := func(ctx context.Context, tx pgidem.Tx) (account string, err error) {
		err = tx.QueryRow(ctx, "INSERT INTO charges VALUES ('acct_42', 1999) RETURNING account").Scan(&account)
		return account, err
	}
	load := func(ctx context.Context, account string) (Charge, error) {
		rows, err := pool.Query(ctx, "SELECT account, cents FROM charges WHERE account = $1", account)
		if err != nil {
			return Charge{}, err
		}
		return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Charge])
	}
	charge := func() (pgidem.Result[Charge], error) {
		saved, err := pgidem.DoTx(ctx, client, pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}, insert)
		if err != nil {
			return pgidem.Result[Charge]{}, err
		}
		return pgidem.Rehydrate(ctx, saved, load)
	}

	for range 2 {
		result, err := charge()
		fmt.Println(result.Value.Account, result.Value.Cents, "replayed:", result.Replayed, "error:", err)
	}

	// Output:
	// acct_42 1999 replayed: false error: <nil>
	// acct_42 1999 replayed: true error: <nil>
}
