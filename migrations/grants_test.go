package migrations_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/migrations"
)

// TestGrants follows docs/schema.md with two fresh roles in a schema of their own, then runs every statement of the
// library as the application's role.
func TestGrants(t *testing.T) {
	t.Parallel()
	queries := libraryQueries(t)

	t.Run("AreEnough", func(t *testing.T) {
		t.Parallel()
		app := install(t).app
		for _, q := range queries {
			if err := q.run(t, app); err != nil && q.name != audit {
				t.Errorf("%s: %v", q.name, err)
			}
		}
	})

	// Only who decides about parked operations writes into the audit, and nobody who writes there may change it.
	t.Run("TheAuditIsForOperators", func(t *testing.T) {
		t.Parallel()
		roles := install(t)
		at := slices.IndexFunc(queries, func(q libraryQuery) bool { return q.name == audit })
		if at < 0 {
			t.Fatalf("queries/ has no %s", audit)
		}
		if err := queries[at].run(t, roles.app); !notPermitted(err) {
			t.Fatalf("without the grant: error %v, want a refusal", err)
		}
		apply(t, roles.owner, roles.rename(docs(t)["operator"]))
		if err := queries[at].run(t, roles.app); err != nil {
			t.Errorf("with the documented grant: %v", err)
		}
		for _, refused := range []string{
			`SELECT * FROM idempotency_audit`, `UPDATE idempotency_audit SET reason = 'another'`, `DELETE FROM idempotency_audit`, `TRUNCATE idempotency_audit`,
		} {
			if err := tryApply(t, roles.app, refused); !notPermitted(err) {
				t.Errorf("%s: error %v, want a refusal", refused, err)
			}
		}
	})

	// What the cascade of a key's deletion does, needs no right of the one who deletes.
	t.Run("TheCascadeNeedsNone", func(t *testing.T) {
		t.Parallel()
		roles := install(t)
		apply(t, roles.app, legalRow(steps, running)+step("charge", 1, "'ok'", null, now))
		apply(t, roles.owner, "REVOKE ALL ON idempotency_steps FROM "+roles.appName)
		apply(t, roles.app, `DELETE FROM idempotency_keys`)
		if n := query[int](t, roles.owner, `SELECT count(*) FROM idempotency_steps`); n != 0 {
			t.Errorf("%d steps are left", n)
		}
	})

	for _, privilege := range []string{"SELECT", "INSERT", "UPDATE", "DELETE"} {
		t.Run(privilege+"IsNeeded", func(t *testing.T) {
			t.Parallel()
			roles := install(t)
			apply(t, roles.owner, fmt.Sprintf("REVOKE %s ON idempotency_keys FROM %s", privilege, roles.appName))
			refused := slices.ContainsFunc(queries, func(q libraryQuery) bool { return notPermitted(q.run(t, roles.app)) })
			if !refused {
				t.Errorf("every statement works without %s", privilege)
			}
		})
	}

	t.Run("GiveNothingElse", func(t *testing.T) {
		t.Parallel()
		roles := install(t)
		for _, allowed := range []string{
			legalRow(steps, running) + step("charge", 1, "'ok'", null, now),
			`SELECT * FROM idempotency_steps`,
			`UPDATE idempotency_steps SET deadline = now()`,
			`DELETE FROM idempotency_steps`,
		} {
			apply(t, roles.app, allowed)
		}
		for _, refused := range []string{
			`CREATE TABLE mine ()`,
			`TRUNCATE idempotency_steps`,
			`DROP TABLE idempotency_steps`,
			`ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_owner`,
			`CREATE TRIGGER t BEFORE INSERT ON idempotency_keys EXECUTE FUNCTION suppress_redundant_updates_trigger()`,
			`SELECT * FROM idempotency_illegal_rows`,
			`SELECT * FROM idempotency_audit`,
			`SELECT * FROM ` + migrations.TableName,
		} {
			if err := tryApply(t, roles.app, refused); !notPermitted(err) {
				t.Errorf("%s: error %v, want a refusal", refused, err)
			}
		}
		apply(t, roles.owner, roles.rename(docs(t)["view"]))
		apply(t, roles.app, `SELECT * FROM idempotency_illegal_rows`)
	})
}

// roles are the two of docs/schema.md, under names of this test.
type roles struct {
	owner, app         *pgxpool.Pool
	ownerName, appName string
	schema             string
}

// rename puts this test's names into the documented SQL.
func (r roles) rename(sql string) string {
	return strings.NewReplacer("shop_owner", r.ownerName, "shop_app", r.appName, "SCHEMA public", "SCHEMA "+r.schema).Replace(sql)
}

func install(t *testing.T) roles {
	t.Helper()
	db := devpg.Empty(t)
	admin := db.Pool(t)
	r := roles{ownerName: newRole(t, db), appName: newRole(t, db), schema: "shop"}
	apply(t, admin, `CREATE SCHEMA shop`)
	apply(t, admin, r.rename(docs(t)["before"]))
	r.owner = connectAs(t, db, r.ownerName, "search_path", r.schema)
	r.app = connectAs(t, db, r.appName, "search_path", r.schema)
	up(t, r.owner)
	apply(t, r.owner, `REVOKE ALL ON TYPE idempotency_kind, idempotency_state FROM PUBLIC`) // as strict installations do by default
	// As a superuser, because the schema is not the owner's.
	admin = connect(t, db, "search_path", r.schema)
	apply(t, admin, r.rename(docs(t)["after"]))
	return r
}

// docs are the SQL blocks of the section on roles.
func docs(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "docs", "schema.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Roles and grants\n")
	section, _, _ = strings.Cut(section, "\n## ")
	blocks := regexp.MustCompile("(?s)```sql\n(.*?)```").FindAllStringSubmatch(section, -1)
	if !found || len(blocks) != 4 {
		t.Fatalf("docs/schema.md has %d blocks of SQL under \"Roles and grants\", want 4", len(blocks))
	}
	return map[string]string{"before": blocks[0][1], "after": blocks[1][1], "view": blocks[2][1], "operator": blocks[3][1]}
}

func notPermitted(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "42501"
}

type libraryQuery struct{ name, sql string }

// audit is the one statement that needs a grant of its own.
const audit = "DecisionAudit"

var parameter = regexp.MustCompile(`@(\w+)|sqlc\.n?arg\('?(\w+)'?\)`)

// libraryQueries are the statements in queries/, which sqlc reads.
func libraryQueries(t *testing.T) []libraryQuery {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "queries", "*.sql"))
	if err != nil {
		t.Fatal(err)
	}
	var list []libraryQuery
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range strings.Split(string(text), "-- name: ")[1:] {
			header, sql, _ := strings.Cut(part, "\n")
			list = append(list, libraryQuery{strings.Fields(header)[0], sql})
		}
	}
	for _, name := range []string{
		"KeyTryLock", "KeyLock", "KeyRead", "KeySave", "KeyDropExpired",
		"KeyBarrier", "KeyLookup", "KeyForget", "ProbeServer", "ProbeLock",
	} {
		if !slices.ContainsFunc(list, func(q libraryQuery) bool { return q.name == name }) {
			t.Errorf("queries/ has no %s", name)
		}
	}
	return list
}

// arguments are values for the parameters of the statements; one that is not here is NULL.
var arguments = pgx.NamedArgs{
	"lock":                  42,
	"lock_timeout":          "1s",
	"claim":                 "00000000-0000-4000-8000-000000000001",
	"scope":                 "shop",
	"id":                    "1",
	"state":                 "succeeded",
	"fingerprint_algorithm": 0,
	"result":                []byte("ok"),
	"ttl":                   "1 day",
	"action":                "resume",
	"attempt":               1,
	"actor":                 "ann",
	"reason":                "it was tested",
}

// run executes the statement in a transaction that holds the claim. A fence that finds no row raises by way of
// NOT NULL or a division by zero, after the privileges were checked: that is no error here.
func (q libraryQuery) run(t *testing.T, pool *pgxpool.Pool) error {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), `SELECT set_config('pgidem.claim', @claim, true), set_config('pgidem.lock_timeout', '0', true)`, arguments); err != nil {
		t.Fatal(err)
	}
	_, err = tx.Exec(t.Context(), parameter.ReplaceAllString(q.sql, "@$1$2"), arguments)
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && (pg.Code == "23502" || pg.Code == "22012") {
		return nil
	}
	return err
}
