package pgidem_test

import (
	"context"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
)

// openPool stands for the pool of your program: it is connected to a new database with pgidem's tables and a table charges.
func openPool(ctx context.Context) *pgxpool.Pool {
	pool, err := pgxpool.New(ctx, databaseURL())
	if err != nil {
		panic(err)
	}
	if _, err := pool.Exec(ctx, "CREATE TABLE charges (account text, cents bigint)"); err != nil {
		panic(err)
	}
	return pool
}

// databaseURL stands for os.Getenv("DATABASE_URL"). The database goes when the server does.
func databaseURL() string {
	server, err := devpg.Shared()
	if err != nil {
		log.Fatal(err) // a panic's stack would hide the reason
	}
	database, err := server.NewDatabase(context.Background())
	if err != nil {
		panic(err)
	}
	return database.URL()
}
