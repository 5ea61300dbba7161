package migrations

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
)

// objects are what version 1 makes; later versions add to them and take nothing away.
var objects = []string{
	"idempotency_illegal_rows", "idempotency_keys", "idempotency_kind", "idempotency_state", "idempotency_steps",
}

// installed is what a database has in the schema to which its search_path leads.
type installed struct {
	schema     string // empty: the search_path leads nowhere
	searchPath string
	role       string
	mayCreate  bool     // the role may create tables in schema
	present    []string // which of objects are there
	comment    string   // on idempotency_keys
	stamp      stamp    // the comment, read; zero if it is not pgidem's

	hasVersions bool                // the version table is there
	recorded    map[int64]time.Time // the applied versions in it; never version 0
}

// stamp is what the comment on idempotency_keys says of the tables.
type stamp struct{ schema, compatible int64 }

// parseStamp gives the zero stamp for a comment that pgidem did not write.
func parseStamp(comment string) stamp {
	var s stamp
	if n, _ := fmt.Sscanf(comment, "pgidem schema=%d compatible=%d", &s.schema, &s.compatible); n != 2 ||
		s.compatible < 1 || s.schema < s.compatible {
		return stamp{}
	}
	return s
}

// Names are looked up in current_schema() and nowhere else: to_regclass would also find the tables of a schema
// further down the search_path, while CREATE TABLE and goose use the first one.
const inspectSQL = `
WITH home AS (
    SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = current_schema()
), found AS (
    SELECT c.oid, c.relname::text AS name FROM pg_catalog.pg_class c JOIN home ON home.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
    UNION ALL
    SELECT t.oid, t.typname::text FROM pg_catalog.pg_type t JOIN home ON home.oid = t.typnamespace
    WHERE t.typtype = 'd'
)
SELECT coalesce(current_schema()::text, ''), current_setting('search_path'), current_user::text,
    coalesce(has_schema_privilege(current_schema()::text, 'CREATE'), false),
    ARRAY(SELECT name FROM found WHERE name = ANY ($1) ORDER BY name),
    coalesce((SELECT obj_description(oid, 'pg_class') FROM found WHERE name = 'idempotency_keys'), ''),
    EXISTS (SELECT FROM found WHERE name = $2)`

// goose records the local time of the session that migrated; this takes it for the time zone of this one.
// The last row of a version counts, as it does for goose.
const recordedSQL = `
SELECT version_id, applied_at
FROM (
    SELECT DISTINCT ON (version_id) version_id, is_applied,
        tstamp AT TIME ZONE current_setting('TimeZone') AS applied_at
    FROM ` + TableName + `
    WHERE version_id > 0
    ORDER BY version_id, id DESC
) AS last
WHERE is_applied`

// inspect reads what is installed and changes nothing.
func inspect(ctx context.Context, conn *pgx.Conn) (*installed, error) {
	found := &installed{recorded: map[int64]time.Time{}}
	err := conn.QueryRow(ctx, inspectSQL, objects, TableName).Scan(&found.schema, &found.searchPath, &found.role,
		&found.mayCreate, &found.present, &found.comment, &found.hasVersions)
	if err != nil {
		return nil, fmt.Errorf("look at what is installed: %w", err)
	}
	found.stamp = parseStamp(found.comment)
	if !found.hasVersions {
		return found, nil
	}
	rows, err := conn.Query(ctx, recordedSQL)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", TableName, err)
	}
	var version int64
	var appliedAt time.Time
	_, err = pgx.ForEachRow(rows, []any{&version, &appliedAt}, func() error {
		found.recorded[version] = appliedAt
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", TableName, err)
	}
	return found, nil
}

// known are the versions of this package, in order.
var known = func() (list []Migration) {
	names, err := fs.Glob(FS, "*.sql")
	for _, name := range names {
		version, nameErr := goose.NumericComponent(name)
		err = errors.Join(err, nameErr)
		list = append(list, Migration{Version: version, Name: name})
	}
	if err != nil {
		panic(err) // a file in this package has a name that goose cannot run
	}
	return list
}()

// newestKnown is the version to which Up brings a schema.
func newestKnown() int64 { return known[len(known)-1].Version }

// newestRecorded is the highest version in the version table, 0 if there is none.
func (i *installed) newestRecorded() int64 {
	var newest int64
	for version := range i.recorded {
		newest = max(newest, version)
	}
	return newest
}

// newest is the highest version that the tables or the version table claim.
func (i *installed) newest() int64 { return max(i.stamp.schema, i.newestRecorded()) }

// migrations merges what this package knows with what the database has.
func (i *installed) migrations() []Migration {
	merged := map[int64]Migration{}
	if i.stamp.schema > 0 {
		merged[i.stamp.schema] = Migration{Version: i.stamp.schema, Applied: true}
	}
	for _, m := range known {
		m.Applied = m.Version <= i.stamp.schema
		merged[m.Version] = m
	}
	for version, at := range i.recorded {
		merged[version] = Migration{Version: version, Name: merged[version].Name, Applied: true, AppliedAt: at}
	}
	return slices.SortedFunc(maps.Values(merged), func(a, b Migration) int { return cmp.Compare(a.Version, b.Version) })
}

// missing are the objects that are not there.
func (i *installed) missing() string {
	return strings.Join(slices.DeleteFunc(slices.Clone(objects), func(o string) bool {
		return slices.Contains(i.present, o)
	}), ", ")
}
