package migrations_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/migrations"
)

// A program that may not change the schema itself says at its start what somebody else has to apply.
func ExampleStatus() {
	ctx := context.Background()
	databaseURL, drop := exampleDatabase(ctx)
	defer drop()
	pool, err := pgxpool.New(ctx, databaseURL)
	if err != nil {
		log.Panic(err)
	}
	defer pool.Close()

	check := func() {
		found, err := migrations.Status(ctx, pool)
		if err != nil {
			log.Panic(err)
		}
		for _, m := range found {
			switch {
			case !m.Applied:
				fmt.Println(m.Name, "is to be applied")
			case m.Name == "":
				fmt.Println("version", m.Version, "is of a newer release")
			default:
				fmt.Println(m.Name, "is applied, at a known time:", !m.AppliedAt.IsZero())
			}
		}
	}
	check()
	if err := migrations.Up(ctx, pool); err != nil {
		log.Panic(err)
	}
	check()

	// Output:
	// 00001_idempotency.sql is to be applied
	// 00001_idempotency.sql is applied, at a known time: true
}
