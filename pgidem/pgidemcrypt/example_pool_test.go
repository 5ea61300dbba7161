package pgidemcrypt_test

import (
	"context"
	"log"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
)

// openPool stands for the pool of your program: it is connected to a new database with pgidem's tables, which goes when
// the server does.
func openPool(ctx context.Context) *pgxpool.Pool {
	server, err := devpg.Shared()
	if err != nil {
		log.Fatal(err) // a panic's stack would hide the reason
	}
	database, err := server.NewDatabase(ctx)
	if err != nil {
		panic(err)
	}
	pool, err := pgxpool.New(ctx, database.URL())
	if err != nil {
		panic(err)
	}
	return pool
}
