package pgidem_test

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/pgidem"
)

// A worker takes jobs from a queue in PostgreSQL, a transaction each. A job that was enqueued twice is done once: the charge,
// its saved result and the job's removal commit together, in the worker's own transaction.
func ExampleInTx() {
	ctx := context.Background()
	pool := openPool(ctx) // the *pgxpool.Pool of your program
	defer pool.Close()
	client, err := pgidem.New(pool, pgidem.Config{})
	if err != nil {
		panic(err)
	}
	const queue = `CREATE TABLE jobs (n int PRIMARY KEY, order_id text, cents int);
		INSERT INTO jobs VALUES (1, 'order-1', 1999), (2, 'order-2', 500), (3, 'order-1', 1999)`
	if _, err := pool.Exec(ctx, queue); err != nil {
		panic(err)
	}

	work := func(tx pgx.Tx) error {
		var n, cents int
		var order string
		err := tx.QueryRow(ctx, "DELETE FROM jobs WHERE n = (SELECT min(n) FROM jobs) RETURNING n, order_id, cents").Scan(&n, &order, &cents)
		if err != nil {
			return err
		}
		key := pgidem.Key{Scope: "acct_42/charges", ID: order}
		receipt, err := pgidem.InTx(ctx, client, tx, key, func(ctx context.Context) (string, error) {
			_, err := tx.Exec(ctx, "INSERT INTO charges VALUES ('acct_42', $1)", cents)
			return fmt.Sprintf("%s: %d cents", order, cents), err
		}, &pgidem.InTxOpts{Input: cents})
		if err != nil {
			return err
		}
		fmt.Printf("job %d: %s, replayed: %v\n", n, receipt.Value, receipt.Replayed)
		return nil
	}
	for range 3 {
		if err := pgx.BeginFunc(ctx, pool, work); err != nil {
			panic(err)
		}
	}

	var charges int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM charges").Scan(&charges); err != nil {
		panic(err)
	}
	fmt.Println("charges:", charges)

	// Output:
	// job 1: order-1: 1999 cents, replayed: false
	// job 2: order-2: 500 cents, replayed: false
	// job 3: order-1: 1999 cents, replayed: true
	// charges: 2
}
