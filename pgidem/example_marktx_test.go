package pgidem_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem"
)

// A consumer gets messages in batches, some of them again. One statement tells which are new; the work for those and their
// marks commit together. The batch is acknowledged afterwards, so a crash in between only brings it back, already marked.
func ExampleMarkTx() {
	ctx := context.Background()
	pool := openPool(ctx) // the *pgxpool.Pool of your program
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}

	consume := func(messages map[string]int, ids ...string) error {
		return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			fresh, err := pgidem.MarkTx(ctx, client, tx, "billing/charges", ids)
			if err != nil {
				return err
			}
			for _, id := range fresh {
				if _, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', $1)", messages[id]); err != nil {
					return err
				}
			}
			fmt.Println("fresh:", fresh)
			return nil
		})
	}
	messages := map[string]int{"m-1": 1999, "m-2": 500, "m-3": 250}
	for _, batch := range [][]string{{"m-2", "m-1", "m-2"}, {"m-1", "m-3"}} {
		if err := consume(messages, batch...); err != nil {
			panic(err)
		}
	}

	var charges int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM charges").Scan(&charges); err != nil {
		panic(err)
	}
	fmt.Println("charges:", charges)

	// Output:
	// fresh: [m-2 m-1]
	// fresh: [m-3]
	// charges: 3
}
