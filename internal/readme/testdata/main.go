// Command main runs the README's code twice with one key. The test puts it beside that code.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/readme/shop"
)

const tables = `
	CREATE TABLE accounts (id text PRIMARY KEY, balance_cents bigint NOT NULL);
	CREATE TABLE charges (id bigint GENERATED ALWAYS AS IDENTITY, account text NOT NULL, amount_cents bigint NOT NULL);
	CREATE TABLE rides (id bigint GENERATED ALWAYS AS IDENTITY, rider text NOT NULL);
	CREATE TABLE receipts (ride bigint NOT NULL, charge text NOT NULL, amount_cents bigint NOT NULL);
	CREATE TABLE credits (account text NOT NULL, amount_cents bigint NOT NULL);
	INSERT INTO accounts VALUES ('acct_42', 100000);`

func main() {
	if err := run(context.Background(), os.Getenv("DATABASE_URL")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, databaseURL string) error {
	client, pool, err := shop.Open(ctx, databaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, tables); err != nil {
		return err
	}
	for _, call := range []struct {
		key   string
		cents int64
	}{{"k1", 1000}, {"k1", 1000}, {"k1", 1001}, {"k2", 99001}, {"k2", 99001}, {"k3", 99000}} {
		receipt, err := shop.Charge(ctx, client, "acct_42", call.key, call.cents)
		fmt.Println(call.key, call.cents, receipt.BalanceCents, err)
	}
	provider := &provider{charges: map[string]string{}}
	for _, cents := range []int64{800, 800, 800, 801} {
		ride, err := shop.BookRide(ctx, client, provider, "acct_42", "b1", cents)
		fmt.Println("b1", cents, ride.ID, ride.ChargeID, err)
	}
	var receipts int
	if err := pool.QueryRow(ctx, "SELECT count(*) FROM receipts").Scan(&receipts); err != nil {
		return err
	}
	fmt.Printf("%d charge, %d receipt\n", len(provider.charges), receipts)
	for range 2 {
		fmt.Println("c1 500", shop.Credit(ctx, client, "acct_42", "c1", 500))
	}
	for range 2 {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			balance, err := shop.Refund(ctx, client, tx, "acct_42", "r1", 100)
			fmt.Println("r1", balance, err)
			return err
		})
		if err != nil {
			return err
		}
	}
	for range 2 {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
			ids, err := shop.NewMessages(ctx, client, tx, []string{"m1", "m2", "m1"})
			fmt.Println("new", ids, err)
			return err
		})
		if err != nil {
			return err
		}
	}
	var balance int64
	if err := pool.QueryRow(ctx, "SELECT balance_cents FROM accounts").Scan(&balance); err != nil {
		return err
	}
	fmt.Println("balance", balance)
	return client.Close(ctx)
}

// provider loses the answer to its first charge.
type provider struct{ charges map[string]string }

func (p *provider) Charge(_ context.Context, _ int64, key string) (string, error) {
	if id, ok := p.charges[key]; ok {
		return id, nil
	}
	p.charges[key] = fmt.Sprintf("charge-%d", len(p.charges)+1)
	return "", errors.New("the provider is down")
}
