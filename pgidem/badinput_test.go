package pgidem

import (
	"context"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A malformed key is refused by every way in, before anything is sent.
func TestInvalidKeySendsNothing(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.ValidateID = ValidateUUID }))
	for name, key := range map[string]Key{
		"NoScope": {"", NewID()}, "NoID": {"s", ""}, "LongScope": {strings.Repeat("s", 256), NewID()},
		"LongID": {"s", strings.Repeat("i", 256)}, "NotUTF8": {"s", "\xff"}, "NUL": {"s\x00", NewID()}, "Policy": {"s", "no-uuid"},
	} {
		b.key = key
		_, err := DoTx(b.Context(), b.client, key, b.effect("never"))
		b.wantError(err, ErrInvalidKey)
		_, err = Lookup[string](b.Context(), b.client, key)
		b.wantError(err, ErrInvalidKey)
		b.wantError(b.client.Forget(b.Context(), key), ErrInvalidKey)
		if n := b.faults.Counts().Connections; n != 0 {
			b.Errorf("%s: %d connections were opened for a bad key", name, n)
		}
	}
}

func TestBadArguments(t *testing.T) {
	b := setup(t)
	fn := b.effect("never")
	for name, call := range map[string]func() error{
		"NilPool":   func() error { return second(New(nil, Config{})) },
		"NilClient": func() error { return second(DoTx(b.Context(), nil, b.key, fn)) },
		"NilFn":     func() error { return second(DoTx[string](b.Context(), b.client, b.key, nil)) },
		"TwoOpts":   func() error { return second(DoTx(b.Context(), b.client, b.key, fn, nil, nil)) },
		"TTL":       func() error { return second(DoTx(b.Context(), b.client, b.key, fn, &TxOpts{TTL: -1})) },
		"WaitBound": func() error { return second(DoTx(b.Context(), b.client, b.key, fn, &TxOpts{WaitBound: -2})) },
		"Input":     func() error { return second(DoTx(b.Context(), b.client, b.key, fn, &TxOpts{Input: make(chan int)})) },
	} {
		if err := call(); !errors.Is(err, ErrConfig) {
			b.Errorf("%s: got %v, want %v", name, err, ErrConfig)
		}
	}
	b.wantEffects(0)
}

func TestClosedPool(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, Key{"s", "first"}, b.effect("")))
	b.pool.Close()
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
	b.wantError(err, ErrUnavailable)
	_, err = DoTx(b.Context(), b.client, b.key, b.effect("never"), &TxOpts{Retry: true})
	b.wantError(err, ErrUnavailable)
	_, err = Lookup[string](b.Context(), b.client, b.key)
	b.wantError(err, ErrUnavailable)
	b.wantError(b.client.Forget(b.Context(), b.key), ErrUnavailable)
	if _, err := b.client.Probe(b.Context()); !errors.Is(err, ErrUnavailable) {
		b.Errorf("Probe: got %v, want %v", err, ErrUnavailable)
	}
}

// What the database is missing is named with what to do, by Probe and by a call, and again by a call after the probe.
func TestUnfitDatabase(t *testing.T) {
	comment := func(text string) string { return "COMMENT ON TABLE idempotency_keys IS '" + text + "'" }
	for name, c := range map[string]struct {
		sql  string
		kind error
		says string
	}{
		"NoMigration": {"ALTER TABLE idempotency_keys RENAME TO hidden", ErrSchema, "goose -dir migrations"},
		"NoComment":   {comment(""), ErrSchema, "goose -dir migrations"},
		"Older":       {comment("pgidem schema=0 compatible=0"), ErrSchema, "goose -dir migrations"},
		"Newer":       {comment("pgidem schema=7 compatible=6"), ErrSchema, "upgrade the library"},
		"ReadOnly":    {"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$", ErrReadOnly, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.must(b.observe().Exec(b.Context(), c.sql))
			_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
			for _, err := range []error{second(b.client.Probe(b.Context())), err} {
				if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
					b.Errorf("got %v, want %v that says %q", err, c.kind, c.says)
				}
			}
			b.must(b.observe().Exec(b.Context(), "BEGIN READ WRITE; ALTER TABLE IF EXISTS hidden RENAME TO idempotency_keys; "+
				"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET default_transaction_read_only', current_database()); END $$; COMMIT"))
		})
	}
}

// A schema that is newer and still compatible is fine: two releases run on one schema during a deploy.
func TestNewerCompatibleSchema(t *testing.T) {
	b := setup(t)
	b.must(b.pool.Exec(b.Context(), "COMMENT ON TABLE idempotency_keys IS 'pgidem schema=7 compatible=1'"))
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantResult(got, err, "done", false)
}

// The schema goes away under a client that has probed long ago.
func TestSchemaLostLater(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, Key{"s", "before"}, b.effect("")))
	b.must(b.pool.Exec(b.Context(), "ALTER TABLE idempotency_keys RENAME TO hidden"))
	_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
	b.wantError(err, ErrSchema)
	b.must(b.pool.Exec(b.Context(), "ALTER TABLE hidden RENAME TO idempotency_keys"))
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("done"))
	b.wantResult(got, err, "done", false)
}

// Rights that are missing are named.
func TestMissingRights(t *testing.T) {
	b := setup(t)
	role := "pgidem_test_" + strings.ReplaceAll(NewID(), "-", "")
	b.must(b.observe().Exec(b.Context(), "CREATE ROLE "+role))
	client, _, _ := b.newClient(withPool(func(p *pgxpool.Config) {
		p.AfterConnect = func(ctx context.Context, c *pgx.Conn) error { return second(c.Exec(ctx, "SET ROLE "+role)) }
	}))
	_, err := DoTx(b.Context(), client, b.key, b.effect("never"))
	b.wantError(err, ErrSchema)
	if !strings.Contains(err.Error(), "SELECT, INSERT, UPDATE and DELETE") {
		b.Errorf("%v does not name the rights", err)
	}
	b.must(b.observe().Exec(b.Context(), "DROP ROLE "+role))
}

// review 8: locks that do not exclude are found out: a stub that grants everything, and a connection string that leads to
// two databases.
func TestReview08LocksThatDoNotExclude(t *testing.T) {
	t.Run("Stub", func(t *testing.T) {
		b := setup(t, withSetting("search_path", "stub, pg_catalog, public"))
		b.must(b.observe().Exec(b.Context(), `CREATE SCHEMA stub; CREATE FUNCTION stub.pg_try_advisory_xact_lock(bigint)
			RETURNS boolean LANGUAGE sql AS 'SELECT true'`))
		_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
		b.wantError(err, ErrLocks)
		b.wantEffects(0)
	})
	t.Run("TwoDatabases", func(t *testing.T) {
		connections := 0
		b := setup(t, withPool(func(p *pgxpool.Config) {
			p.BeforeConnect = func(_ context.Context, c *pgx.ConnConfig) error {
				if connections++; connections == 2 { // the pool's first, then the probe's
					c.Database = "postgres"
				}
				return nil
			}
		}))
		_, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
		b.wantError(err, ErrLocks)
	})
}

// review 9: a result that no replay could read is an error while it can still be rolled back.
func TestReview09UnsavableResult(t *testing.T) {
	t.Run("CannotBeEncoded", func(t *testing.T) { unsavable(t, math.NaN(), nil) })
	t.Run("CannotBeDecoded", func(t *testing.T) { unsavable(t, oneWay{}, nil) })
	t.Run("Interface", func(t *testing.T) { unsavable[error](t, os.ErrNotExist, nil) })
	t.Run("TooLarge", func(t *testing.T) {
		unsavable(t, strings.Repeat("x", 100), func(c *Config) { c.MaxResultBytes = 101 })
	})
}

func unsavable[T any](t *testing.T, value T, edit func(*Config)) {
	b := setup(t, withConfig(func(c *Config) {
		if edit != nil {
			edit(c)
		}
	}))
	_, err := DoTx(b.Context(), b.client, b.key, func(ctx context.Context, tx Tx) (T, error) {
		_, err := b.effect("")(ctx, tx)
		return value, err
	})
	b.wantError(err, ErrResult)
	b.wantEffects(0)
	b.wantState("")
}

// oneWay is encoded as something that it cannot be decoded from.
type oneWay struct{}

func (oneWay) MarshalJSON() ([]byte, error)  { return []byte(`"away"`), nil }
func (*oneWay) UnmarshalJSON(_ []byte) error { return errors.New("not back") }

func TestFailureTooLarge(t *testing.T) {
	b := setup(t, withConfig(func(c *Config) { c.MaxResultBytes = 100 }))
	_, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (string, error) {
		return "", Permanent(errors.New(strings.Repeat("x", 100)))
	})
	b.wantError(err, ErrResult)
	var failure *Failure
	if errors.As(err, &failure) || !strings.Contains(err.Error(), "(xxx") {
		t.Errorf("got %v, want an error that shows the failure, but is none, because it is not saved", err)
	}
	b.wantState("")
}

// A saved result that another release cannot decode is an error, and is still there for the one that can.
func TestSavedResultOfAnotherType(t *testing.T) {
	b := setup(t)
	b.must(DoTx(b.Context(), b.client, b.key, b.effect("a text")))
	_, err := DoTx(b.Context(), b.client, b.key, func(context.Context, Tx) (int, error) { return 0, nil })
	b.wantError(err, ErrResult)
	record, err := Lookup[int](b.Context(), b.client, b.key)
	b.wantError(err, ErrResult)
	if record.State != stateSucceeded {
		b.Errorf("the record has state %q", record.State)
	}
	got, err := DoTx(b.Context(), b.client, b.key, b.effect("never"))
	b.wantResult(got, err, "a text", true)
}
