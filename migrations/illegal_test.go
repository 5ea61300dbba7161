package migrations_test

import (
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/devpg"
	"github.com/pgidem/pgidem/migrations"
)

// legalRow is the smallest legal row of a kind and a state: what the state asks for and nothing else.
func legalRow(kind, state string) string {
	finished := state == "succeeded" || state == "failed" || state == "tombstone"
	when := func(condition bool, value string) string {
		if condition {
			return value
		}
		return "NULL"
	}
	return fmt.Sprintf(`INSERT INTO idempotency_keys
		(scope, id, kind, state, claim, attempt, owner, life, result, error, parked, created_at, finished_at, expires_at)
		VALUES ('shop', '%[1]s %[2]s', '%[1]s', '%[2]s', gen_random_uuid(), 1, %[3]s, %[4]s, %[5]s, %[6]s, %[7]s,
			'2026-01-01 00:00Z', %[8]s, %[9]s)`,
		kind, state,
		when(state == "running" || state == "undoing", "7"),
		when(kind == "steps", "gen_random_uuid()"),
		when(state == "succeeded" && kind != "mark", "'ok'"),
		when(state == "failed" || state == "undoing", "'why'"),
		when(state == "parked", "'why'"),
		when(finished, "'2026-01-01 00:01Z'"),
		when(finished, "'2026-01-02 00:01Z'"))
}

// step adds a step to the key of legalRow("steps", "running").
func step(name string, ordinal int, result, intentAt, recordedAt string) string {
	return fmt.Sprintf(`;INSERT INTO idempotency_steps (scope, id, name, ordinal, claim, result, intent_at, recorded_at)
		VALUES ('shop', 'steps running', '%s', %d, gen_random_uuid(), %s, %s, %s)`, name, ordinal, result, intentAt, recordedAt)
}

func set(assignments string) string { return ";UPDATE idempotency_keys SET " + assignments }

// inTx runs statements that no other case sees and gives the reasons for which rows are illegal then.
func inTx(t *testing.T, db *devpg.Database, sql string) []string {
	t.Helper()
	tx, err := db.Pool(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(t.Context()) }()
	if _, err := tx.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	rows, err := tx.Query(t.Context(), `SELECT reason FROM idempotency_illegal_rows ORDER BY reason`)
	if err != nil {
		t.Fatal(err)
	}
	reasons, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return reasons
}

const (
	tx      = "tx"
	steps   = "steps"
	mark    = "mark"
	running = "running"
	now     = "clock_timestamp()"
	null    = "NULL"
)

// illegal makes rows that are illegal for exactly one reason.
var illegal = []struct{ reason, sql string }{
	{"scope is not 1 to 255 bytes", legalRow(tx, "succeeded") + set("scope = ''")},
	{"scope is not 1 to 255 bytes", legalRow(tx, "succeeded") + set("scope = repeat('é', 128)")},
	{"id is not 1 to 255 bytes", legalRow(tx, "succeeded") + set("id = ''")},
	{"id is not 1 to 255 bytes", legalRow(tx, "succeeded") + set("id = repeat('é', 128)")},
	{"attempt is less than 1", legalRow(tx, "succeeded") + set("attempt = 0")},
	{"an owner, and only an owner, is running or undoing", legalRow(steps, running) +
		";ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_owner" + set("owner = NULL")},
	{"an owner, and only an owner, is running or undoing", legalRow(tx, "succeeded") +
		";ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_owner" + set("owner = 7")},
	{"finished_at is set exactly in finished states", legalRow(tx, "succeeded") + set("finished_at = NULL")},
	{"finished_at is set exactly in finished states", legalRow(steps, "released") + set("finished_at = "+now)},
	{"expires_at is set exactly in finished states", legalRow(tx, "failed") + set("expires_at = NULL")},
	{"expires_at is set exactly in finished states", legalRow(steps, "parked") + set("expires_at = "+now)},
	{"times run backwards", legalRow(tx, "succeeded") + set("created_at = finished_at + interval '1 second'")},
	{"times run backwards", legalRow(tx, "succeeded") + set("expires_at = finished_at - interval '1 second'")},
	{"a result is saved exactly with success", legalRow(tx, "succeeded") + set("result = NULL")},
	{"a result is saved exactly with success", legalRow(mark, "succeeded") + set("result = 'ok'")},
	{"a result is saved exactly with success", legalRow(steps, "released") + set("result = 'ok'")},
	{"failed and undoing rows say why", legalRow(tx, "failed") + set("error = NULL")},
	{"failed and undoing rows say why", legalRow(steps, "undoing") + set("error = NULL")},
	{"parked rows, and only parked rows, say why", legalRow(steps, "parked") + set("parked = NULL")},
	{"parked rows, and only parked rows, say why", legalRow(steps, "parked") + set("parked = NULL, error = 'why'")},
	{"parked rows, and only parked rows, say why", legalRow(steps, running) + set("parked = 'why'")},
	{"parked rows, and only parked rows, say why", legalRow(steps, "released") + set("parked = 'why'")},
	{"more attempts are forgiven than were made", legalRow(steps, "released") + set("attempts_forgiven = 2")},
	{"more attempts are forgiven than were made", legalRow(steps, "released") + set("attempts_forgiven = -1")},
	{"an error is never cleared, so these states cannot have one", legalRow(tx, "succeeded") + set("error = 'why'")},
	{"an error is never cleared, so these states cannot have one", legalRow(steps, running) + set("error = 'why'")},
	{"an error is never cleared, so these states cannot have one", legalRow(mark, "tombstone") + set("error = 'why'")},
	{"fingerprint and fingerprint_algorithm belong together", legalRow(tx, "succeeded") + set("fingerprint = 'f'")},
	{"fingerprint and fingerprint_algorithm belong together", legalRow(tx, "succeeded") + set("fingerprint_algorithm = 1")},
	{severalStepsOnly, legalRow(tx, "succeeded") + set("life = gen_random_uuid()")},
	{severalStepsOnly, legalRow(mark, "succeeded") + set("operation = 'book'")},
	{severalStepsOnly, legalRow(tx, "failed") + set("input = 'in'")},
	{"an operation of several steps has a life", legalRow(steps, "released") + set("life = NULL")},
	{"the recovery point is not a recorded step", legalRow(steps, running) + set("recovery_point = 'charge'")},
	{"the recovery point is not a recorded step", legalRow(steps, running) + step("charge", 1, null, now, null) +
		set("recovery_point = 'charge'")},
	{"a step belongs to an operation of another kind", legalRow(tx, "succeeded") + set("id = 'steps running'") +
		step("charge", 1, "'ok'", null, now)},
	{"a step has no name", legalRow(steps, running) + step("", 1, "'ok'", null, now)},
	{"a step is recorded exactly when it has a result", legalRow(steps, running) + step("charge", 1, null, null, now)},
	{"a step is recorded exactly when it has a result", legalRow(steps, running) + step("charge", 1, "'ok'", now, null)},
	{"a step is neither an intent nor recorded", legalRow(steps, running) + step("charge", 1, null, null, null)},
	{"steps are not recorded in order", legalRow(steps, running) + step("charge", 2, "'ok'", null, now)},
	{"steps are not recorded in order", legalRow(steps, running) + step("charge", 0, "'ok'", null, now)},
}

const severalStepsOnly = "only operations of several steps have a recovery point, a life, a name or an input"

func TestIllegalRows(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	covered := map[string]bool{}
	for _, c := range illegal {
		covered[c.reason] = true
		if got := inTx(t, db, c.sql); !slices.Equal(got, []string{c.reason}) {
			t.Errorf("reasons %q, want only %q, for %s", got, c.reason, c.sql)
		}
	}

	// A kind that is not saved in a state is illegal for that reason (and where it is parked, for why it is), all others are legal.
	for _, kind := range kinds {
		for _, state := range states {
			var want []string
			switch {
			case kind == tx && !slices.Contains([]string{"succeeded", "failed", "tombstone"}, state):
				want = []string{"a tx operation is saved only when it is finished"}
			case kind == mark && !slices.Contains([]string{"succeeded", "tombstone"}, state):
				want = []string{"a mark is saved only as succeeded"}
			}
			if kind != steps && state == "parked" {
				want = append(want, severalStepsOnly)
			}
			for _, reason := range want {
				covered[reason] = true
			}
			if got := inTx(t, db, legalRow(kind, state)); !slices.Equal(got, want) {
				t.Errorf("%s, %s: reasons %q, want %q", kind, state, got, want)
			}
		}
	}

	for _, reason := range reasonsInTheFile(t) {
		if !covered[reason] {
			t.Errorf("no case makes a row illegal because %q", reason)
		}
	}
}

// TestLegalRows has the legal rows with more in them than their state asks for, all at once.
func TestLegalRows(t *testing.T) {
	t.Parallel()
	db := migrated(t)
	long := set("scope = repeat('s', 255), id = repeat('i', 255), fingerprint_algorithm = 1, fingerprint = 'f', attempt = 9")
	got := inTx(t, db, strings.Join([]string{
		legalRow(tx, "succeeded") + long + " WHERE state = 'succeeded'",
		legalRow(steps, running) + step("ride", 1, "'ok'", null, now) + step("charge", 2, "'ok'", now, now) + step("mail", 3, null, now, null) +
			set("recovery_point = 'charge', operation = 'book', input = 'in'") + " WHERE state = 'running'",
		// Released in the middle of an undo: the error says that it must not run forward again.
		legalRow(steps, "released") + set("error = 'why', attempt = 9, attempts_forgiven = 9") + " WHERE state = 'released'",
		// Parked in the middle of an undo, which has another reason than the failure.
		legalRow(steps, "parked") + set("error = 'why'") + " WHERE state = 'parked'",
		legalRow(steps, "succeeded"),
		legalRow(steps, "failed"),
	}, ";"))
	if len(got) != 0 {
		t.Errorf("legal rows are illegal: %q", got)
	}
}

// reasonsInTheFile are the reasons that the view can give.
func reasonsInTheFile(t *testing.T) []string {
	t.Helper()
	text, err := fs.ReadFile(migrations.FS, sqlFile)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []string
	for _, match := range regexp.MustCompile(`'([^']+)'::text AS reason`).FindAllStringSubmatch(string(text), -1) {
		reasons = append(reasons, match[1])
	}
	if count := strings.Count(string(text), "AS reason"); len(reasons) == 0 || len(reasons) != count {
		t.Fatalf("%d reasons were found in the %d branches of the view", len(reasons), count)
	}
	return reasons
}
