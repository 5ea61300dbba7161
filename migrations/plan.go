package migrations

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// plan is what is left to do with what is installed.
type plan struct {
	// adopt are the versions that the tables have and the version table does not.
	adopt []int64
	// goose has work.
	goose bool
}

type planner func(*installed) (plan, error)

func planUp(i *installed) (plan, error) {
	if err := i.check(); err != nil {
		return plan{}, err
	}
	if i.newest() > newestKnown() {
		if i.stamp.schema == i.newest() && i.stamp.compatible <= newestKnown() {
			return plan{}, nil // an older release during a rolling deployment: the newer schema serves it too
		}
		return plan{}, i.newer()
	}
	if err := i.consistent(); err != nil {
		return plan{}, err
	}
	todo := plan{adopt: i.unrecorded(), goose: i.stamp.schema < newestKnown()}
	if (todo.goose || !i.hasVersions) && !i.mayCreate {
		return plan{}, fmt.Errorf("%w: role %s may not create tables in schema %s: run migrations as the owner "+
			"of the schema, or run GRANT CREATE ON SCHEMA %[3]s TO %[2]s",
			ErrNotPermitted, pgx.Identifier{i.role}.Sanitize(), pgx.Identifier{i.schema}.Sanitize())
	}
	return todo, nil
}

func planDown(i *installed) (plan, error) {
	if err := i.check(); err != nil {
		return plan{}, err
	}
	if i.newest() > newestKnown() {
		return plan{}, i.newer()
	}
	if err := i.consistent(); err != nil {
		return plan{}, err
	}
	return plan{adopt: i.unrecorded(), goose: len(i.present) > 0}, nil
}

// check refuses what pgidem did not make, whatever version it may be.
func (i *installed) check() error {
	switch {
	case i.schema == "":
		return fmt.Errorf("%w: search_path is %s, and none of its schemas exists for role %s: create one "+
			"(CREATE SCHEMA …) or correct search_path", ErrNoSchema, i.searchPath, i.role)
	case len(i.present) == 0:
		return nil
	case len(i.present) < len(objects):
		return fmt.Errorf("%w: schema %s has %s but not %s: if they belong to another program, give pgidem a schema of its "+
			"own through search_path; if they are what is left of pgidem, drop them",
			ErrUnknownSchema, i.schema, strings.Join(i.present, ", "), i.missing())
	case i.stamp == stamp{}:
		return fmt.Errorf("%w: the comment on table %s.idempotency_keys is %q instead of \"pgidem schema=… compatible=…\": "+
			"if the table is pgidem's, restore its comment from the migration that made it",
			ErrUnknownSchema, i.schema, i.comment)
	}
	return nil
}

// consistent refuses tables older than the version table says.
func (i *installed) consistent() error {
	if recorded := i.newestRecorded(); i.stamp.schema < recorded {
		return fmt.Errorf("%w: %s in schema %s records version %d, the tables have version %d (0: there are none): "+
			"correct the version table, e.g. DELETE FROM %[2]s WHERE version_id > %[5]d",
			ErrUnknownSchema, TableName, i.schema, recorded, i.stamp.schema)
	}
	return nil
}

func (i *installed) newer() error {
	return fmt.Errorf("%w: schema %s has version %d (the tables' comment: %q), this pgidem knows versions up to %d: "+
		"use a newer pgidem", ErrNewerSchema, i.schema, i.newest(), i.comment, newestKnown())
}

// unrecorded are the versions that were applied as plain SQL.
func (i *installed) unrecorded() []int64 {
	var versions []int64
	for _, m := range known {
		if _, ok := i.recorded[m.Version]; !ok && m.Version <= i.stamp.schema {
			versions = append(versions, m.Version)
		}
	}
	return versions
}
