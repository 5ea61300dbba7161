package migrations_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/migrations"
)

// Down takes pgidem out of a database, with every saved result, and leaves the application's own tables.
func ExampleDown() {
	ctx := context.Background()
	databaseURL, drop := exampleDatabase(ctx)
	defer drop()
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		log.Panic(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "CREATE TABLE charges (account text, cents bigint)"); err != nil {
		log.Panic(err)
	}
	list := func(when string) {
		var tables string
		err := pool.QueryRow(ctx, `SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables
			WHERE schemaname = current_schema AND tablename <> $1`, migrations.TableName).Scan(&tables)
		if err != nil {
			log.Panic(err)
		}
		fmt.Println(when, tables)
	}

	if err := migrations.Up(ctx, pool); err != nil {
		log.Panic(err)
	}
	list("up:")
	if err := migrations.Down(ctx, pool); err != nil {
		log.Panic(err)
	}
	list("down:")

	// Output:
	// up: charges idempotency_audit idempotency_keys idempotency_steps
	// down: charges
}
