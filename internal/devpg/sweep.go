package devpg

import (
	"context"
	"errors"
	"regexp"
	"slices"

	"github.com/jackc/pgx/v5"
)

// ownName picks the run's ID out of the name of a database that belongs to a run.
var ownName = regexp.MustCompile("^" + prefix + "([0-9a-f]{8})_")

// sweep drops the databases of runs that are no longer alive. A run is alive while its lock is held or somebody is connected to
// one of its databases.
func sweep(ctx context.Context, conn *pgx.Conn) error {
	// Databases first, the living second: a run locks its ID before it creates anything, so that a run which begins
	// in between is not taken for a dead one. Databases of roles that we do not belong to are theirs to sweep.
	names, err := list(ctx, conn, `SELECT datname FROM pg_database
		WHERE starts_with(datname, $1) AND pg_has_role(datdba, 'USAGE')`, prefix)
	if err != nil {
		return err
	}
	// pg_locks and not a try-lock, because an advisory lock is seen in its own database only, and runs may be given
	// different ones.
	alive, err := list(ctx, conn, `SELECT lpad(to_hex(objid::bigint), 8, '0') FROM pg_locks
		WHERE locktype = 'advisory' AND granted AND classid::bigint = $1 AND objsubid = 1`, int64(lockSpace))
	if err != nil {
		return err
	}
	busy, err := list(ctx, conn, "SELECT DISTINCT datname FROM pg_stat_activity WHERE starts_with(datname, $1)", prefix)
	if err != nil {
		return err
	}
	for _, name := range busy {
		if m := ownName.FindStringSubmatch(name); m != nil {
			alive = append(alive, m[1])
		}
	}
	var errs []error
	for _, name := range names {
		if m := ownName.FindStringSubmatch(name); m != nil && !slices.Contains(alive, m[1]) {
			errs = append(errs, drop(ctx, conn, name))
		}
	}
	return errors.Join(errs...)
}
