package migrations_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

var (
	kinds  = []string{"tx", "steps", "mark"}
	states = []string{"running", "undoing", "released", "parked", "succeeded", "failed", "tombstone"}
)

// TestConstraints tries what the tables themselves refuse.
func TestConstraints(t *testing.T) {
	t.Parallel()
	pool := migrated(t).Pool(t)
	const insert = `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, owner)
		VALUES ('s', gen_random_uuid(), $1, $2, gen_random_uuid(), 1, $3)`

	t.Run("AnOwnerIsSetExactlyWhileItRuns", func(t *testing.T) {
		t.Parallel()
		for _, kind := range kinds {
			for _, state := range states {
				owned := state == "running" || state == "undoing"
				right, wrong := new(int64), (*int64)(nil)
				if !owned {
					right, wrong = wrong, right
				}
				if _, err := pool.Exec(t.Context(), insert, kind, state, right); err != nil {
					t.Errorf("%s, %s: %v", kind, state, err)
				}
				_, err := pool.Exec(t.Context(), insert, kind, state, wrong)
				wantViolation(t, err, "23514", "idempotency_keys_owner")
			}
		}
	})

	t.Run("WordsAreKnown", func(t *testing.T) {
		t.Parallel()
		for _, word := range []string{"", "TX", "tx ", "other"} {
			_, err := pool.Exec(t.Context(), insert, word, "succeeded", nil)
			wantViolation(t, err, "23514", "idempotency_kind_known")
		}
		for _, word := range []string{"", "Running", "done"} {
			_, err := pool.Exec(t.Context(), insert, "tx", word, nil)
			wantViolation(t, err, "23514", "idempotency_state_known")
		}
		_, err := pool.Exec(t.Context(), insert, nil, "succeeded", nil)
		wantViolation(t, err, "23502", "")
	})

	t.Run("AKeyIsThereOnce", func(t *testing.T) {
		t.Parallel()
		if _, err := pool.Exec(t.Context(), insertKey); err != nil {
			t.Fatal(err)
		}
		_, err := pool.Exec(t.Context(), insertKey)
		wantViolation(t, err, "23505", "idempotency_keys_pkey")
	})

	t.Run("StepsBelongToAKeyAndGoWithIt", func(t *testing.T) {
		t.Parallel()
		const step = `INSERT INTO idempotency_steps (scope, id, name, ordinal, claim) VALUES ($1, 'a', $2, 1, gen_random_uuid())`
		_, err := pool.Exec(t.Context(), step, "nobody", "one")
		wantViolation(t, err, "23503", "idempotency_steps_key")

		if _, err := pool.Exec(t.Context(), `INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt, owner)
			VALUES ('cascade', 'a', 'steps', 'running', gen_random_uuid(), 1, 7), ('cascade', 'b', 'steps', 'running', gen_random_uuid(), 1, 7)`); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"one", "two"} {
			if _, err := pool.Exec(t.Context(), step, "cascade", name); err != nil {
				t.Fatal(err)
			}
		}
		_, err = pool.Exec(t.Context(), step, "cascade", "one")
		wantViolation(t, err, "23505", "idempotency_steps_pkey")
		_, err = pool.Exec(t.Context(), `INSERT INTO idempotency_steps (scope, id, name, ordinal) VALUES ('cascade', 'a', 'three', 3)`)
		wantViolation(t, err, "23502", "")

		const count = `SELECT count(*) FROM idempotency_steps WHERE scope = 'cascade'`
		apply(t, pool, `DELETE FROM idempotency_keys WHERE scope = 'cascade' AND id = 'b'`)
		if n := query[int](t, pool, count); n != 2 {
			t.Errorf("%d steps after another key was deleted, want 2", n)
		}
		apply(t, pool, `DELETE FROM idempotency_keys WHERE scope = 'cascade' AND id = 'a'`)
		if n := query[int](t, pool, count); n != 0 {
			t.Errorf("%d steps after their key was deleted, want 0", n)
		}
	})

	t.Run("UpdatesFindRoomOnThePage", func(t *testing.T) {
		t.Parallel()
		const options = `SELECT coalesce(reloptions, '{}')::text[] FROM pg_class WHERE oid = 'idempotency_keys'::regclass`
		if got := query[[]string](t, pool, options); !slices.Equal(got, []string{"fillfactor=90"}) {
			t.Errorf("options %v, want fillfactor=90", got)
		}
	})
}

// TestKeysAreInByteOrder uses letters that the collation of a language orders otherwise.
func TestKeysAreInByteOrder(t *testing.T) {
	t.Parallel()
	pool := migrated(t).Pool(t)
	for _, id := range []string{"a", "B", "é", "Z", "_"} {
		apply(t, pool, fmt.Sprintf(`INSERT INTO idempotency_keys (scope, id, kind, state, claim, attempt)
			VALUES ('s', '%s', 'tx', 'failed', gen_random_uuid(), 1)`, id))
	}
	rows, err := pool.Query(t.Context(), `SELECT id FROM idempotency_keys ORDER BY scope, id`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if want := []string{"B", "Z", "_", "a", "é"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("order %v (%v), want %v", got, err, want)
	}
	// Whatever the test database's own locale: the collation is the columns' and with them the indexes'.
	const collations = `
		SELECT array_agg(DISTINCT l.collname::text)
		FROM pg_index i
		CROSS JOIN LATERAL unnest(i.indcollation) AS c (oid)
		JOIN pg_collation l ON l.oid = c.oid
		WHERE i.indisprimary AND i.indrelid IN ('idempotency_keys'::regclass, 'idempotency_steps'::regclass)`
	if got := query[[]string](t, pool, collations); !slices.Equal(got, []string{"C"}) {
		t.Errorf("collations of the primary keys: %v, want C", got)
	}
}

func wantViolation(t *testing.T, err error, code, constraint string) {
	t.Helper()
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != code || pg.ConstraintName != constraint {
		t.Errorf("error %v, want SQLSTATE %s of constraint %q", err, code, constraint)
	}
}
