package devpg

import (
	"context"
	"fmt"
)

// Database is one of the databases of a [Server].
type Database struct {
	server *Server
	name   string
}

// URL connects to the database as the role of [Server.URL].
func (d *Database) URL() string { return withDatabase(d.server.URL(), d.name) }

// Drop drops the database and ends the sessions that are still connected to it. To drop it twice does no harm.
func (d *Database) Drop(ctx context.Context) error {
	if err := drop(ctx, d.server.admin, d.name); err != nil {
		return fmt.Errorf("devpg: %w", err)
	}
	return nil
}

// rename ends the sessions that are left and gives the database a name that no sweep knows.
func (d *Database) rename(ctx context.Context, name string) error {
	_, err := d.server.admin.Exec(ctx, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", d.name)
	if err == nil {
		_, err = d.server.admin.Exec(ctx, "ALTER DATABASE "+quote(d.name)+" RENAME TO "+quote(name))
	}
	if err != nil {
		return fmt.Errorf("devpg: rename database %s to %s: %w", d.name, name, err)
	}
	d.name = name
	return nil
}
