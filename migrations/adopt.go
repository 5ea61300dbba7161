package migrations

import (
	"context"
	"database/sql"

	"github.com/pressly/goose/v3/database"
)

// adopt writes the version rows of a schema that was made as plain SQL, in goose's own words.
func adopt(ctx context.Context, db *sql.DB, hasTable bool, versions []int64) error {
	store, err := database.NewStore(database.DialectPostgres, TableName)
	if err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	// After Commit this does nothing.
	defer func() { _ = tx.Rollback() }()
	if !hasTable {
		if err := store.CreateVersionTable(ctx, tx); err != nil {
			return err
		}
		// goose expects the row of "nothing applied yet" in every version table.
		versions = append([]int64{0}, versions...)
	}
	for _, version := range versions {
		if err := store.Insert(ctx, tx, database.InsertRequest{Version: version}); err != nil {
			return err
		}
	}
	return tx.Commit()
}
