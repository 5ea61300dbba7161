package migrations_test

import (
	"context"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/migrations"
)

// Up may run at every start of every process; here it installs pgidem in a schema of its own.
func ExampleUp() {
	ctx := context.Background()
	databaseURL, drop := exampleDatabase(ctx)
	defer drop()

	config, err := pgxpool.ParseConfig(databaseURL)
	if err != nil {
		log.Panic(err)
	}
	config.ConnConfig.RuntimeParams["search_path"] = "shop"
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		log.Panic(err)
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS shop"); err != nil {
		log.Panic(err)
	}

	if err := migrations.Up(ctx, pool); err != nil {
		log.Panic(err)
	}

	applied, err := migrations.Status(ctx, pool)
	if err != nil {
		log.Panic(err)
	}
	for _, m := range applied {
		fmt.Println(m.Version, m.Name, m.Applied)
	}
	// Output:
	// 1 00001_idempotency.sql true
}

// exampleDatabase stands for the $DATABASE_URL of a program: a database without pgidem.
func exampleDatabase(ctx context.Context) (url string, drop func()) {
	server, err := devpg.Shared()
	if err != nil {
		log.Fatal(err) // a panic's stack would hide the reason
	}
	db, err := server.NewDatabase(ctx)
	if err != nil {
		log.Panic(err)
	}
	pool, err := pgxpool.New(ctx, db.URL())
	if err != nil {
		log.Panic(err)
	}
	defer pool.Close()
	if err := migrations.Down(ctx, pool); err != nil { // each of devpg's has the tables
		log.Panic(err)
	}
	return db.URL(), func() {
		if err := db.Drop(ctx); err != nil {
			log.Panic(err)
		}
	}
}
