package pgidem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/pgidem/pgidem/internal/devpg"
)

func TestKeyValidate(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	accept := func(string) error { return nil }
	refuse := func(string) error { return refused }
	for _, c := range []struct {
		name       string
		key        Key
		validateID func(string) error
		reason     string // "" where the key is good
		cause      error
	}{
		{"OneByte", Key{"s", "i"}, nil, "", nil},
		{"EmptyScope", Key{"", "i"}, nil, "scope is empty", nil},
		{"EmptyID", Key{"s", ""}, nil, "id is empty", nil},
		{"BothEmpty", Key{}, nil, "scope is empty", nil},
		{"LongestScope", Key{strings.Repeat("s", 255), "i"}, nil, "", nil},
		{"LongestID", Key{"s", strings.Repeat("i", 255)}, nil, "", nil},
		{"LongestBoth", Key{strings.Repeat("s", 255), strings.Repeat("i", 255)}, nil, "", nil},
		{"TooLongScope", Key{strings.Repeat("s", 256), "i"}, nil, "scope is 256 bytes long, 255 are allowed", nil},
		{"TooLongID", Key{"s", strings.Repeat("i", 256)}, nil, "id is 256 bytes long, 255 are allowed", nil},
		{"TwoByteCharactersToTheLimit", Key{"s", strings.Repeat("é", 127) + "e"}, nil, "", nil},
		{"TwoByteCharactersAcrossTheLimit", Key{"s", strings.Repeat("é", 128)}, nil, "id is 256 bytes long", nil},
		{"FourByteCharactersToTheLimit", Key{strings.Repeat("🚀", 63) + "abc", "i"}, nil, "", nil},
		{"FourByteCharactersAcrossTheLimit", Key{strings.Repeat("🚀", 64), "i"}, nil, "scope is 256 bytes long", nil},
		{"ACharacterCutInHalf", Key{"s", strings.Repeat("é", 128)[:255]}, nil, "id is not valid UTF-8", nil},
		{"NotUTF8Scope", Key{"s\xff", "i"}, nil, "scope is not valid UTF-8", nil},
		{"SurrogateID", Key{"s", "\xed\xa0\x80"}, nil, "id is not valid UTF-8", nil},
		{"OverlongNUL", Key{"s", "\xc0\x80"}, nil, "id is not valid UTF-8", nil},
		{"ControlCharactersButNUL", Key{"\x01\n", "\x7f\t"}, nil, "", nil},
		{"ReplacementCharacter", Key{"\uFFFD", "\uFFFD"}, nil, "", nil},
		{"OnlySpaces", Key{" ", " "}, nil, "", nil},
		{"AcceptedByValidator", Key{"s", "i"}, accept, "", nil},
		{"RefusedByValidator", Key{"s", "i"}, refuse, "id is refused by Config.ValidateID", refused},
		{"BadScopeAndValidator", Key{"", "i"}, refuse, "scope is empty", nil},
		{"BadIDAndValidator", Key{"s", "\x00"}, accept, "id contains a NUL byte", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			err := c.key.validate(c.validateID)
			if c.reason == "" {
				if err != nil {
					t.Errorf("a good key is refused: %v", err)
				}
				return
			}
			var e *Error
			if !errors.Is(err, ErrInvalidKey) || !errors.As(err, &e) {
				t.Fatalf("error %v, want ErrInvalidKey", err)
			}
			if !strings.HasPrefix(e.Reason, c.reason) || e.Key != c.key {
				t.Errorf("reason %q of key %v, want %q", e.Reason, e.Key, c.reason)
			}
			if e.Cause != c.cause {
				t.Errorf("the cause is %v, want %v", e.Cause, c.cause)
			}
		})
	}
}

func TestKeyValidateFindsNULEverywhere(t *testing.T) {
	t.Parallel()
	const text = "acct_42/größe"
	for at := range len(text) + 1 {
		bad := text[:at] + "\x00" + text[at:]
		for _, key := range []Key{{text, bad}, {bad, text}} {
			if err := key.validate(nil); !errors.Is(err, ErrInvalidKey) {
				t.Errorf("NUL at byte %d of %+q: error %v, want ErrInvalidKey", at, bad, err)
			}
		}
	}
}

func TestValidateIDSeesTheIDOnly(t *testing.T) {
	t.Parallel()
	var seen []string
	note := func(id string) error { seen = append(seen, id); return nil }
	for _, key := range []Key{{"scope", "first"}, {"", "bad scope"}, {"scope", "\xff"}, {"scope", "second"}} {
		_ = key.validate(note)
	}
	if got := strings.Join(seen, ","); got != "first,second" {
		t.Errorf("Config.ValidateID was asked about %q, want the IDs of the good keys", got)
	}
}

// TestInvalidKeyIsRefusedBeforeSQL runs on a pool that cannot even connect.
func TestInvalidKeyIsRefusedBeforeSQL(t *testing.T) {
	t.Parallel()
	config, err := pgxpool.ParseConfig("host=127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		t.Error("a connection was opened")
		return nil, net.ErrClosed
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	client, err := New(pool, Config{ValidateID: ValidateUUID})
	if err != nil {
		t.Fatal(err)
	}
	neverRun := func(context.Context, Tx) (int, error) {
		t.Error("the function was run")
		return 0, nil
	}
	for _, key := range []Key{{}, {"s", ""}, {"s", "not a UUID"}, {"\x00", NewID()}} {
		_, doErr := DoTx(t.Context(), client, key, neverRun)
		_, lookupErr := Lookup[int](t.Context(), client, key)
		forgetErr := client.Forget(t.Context(), key)
		for name, err := range map[string]error{"DoTx": doErr, "Lookup": lookupErr, "Forget": forgetErr} {
			if !errors.Is(err, ErrInvalidKey) {
				t.Errorf("%s with key %v: error %v, want ErrInvalidKey", name, key, err)
			}
		}
	}
}

func TestKeyHidesItsID(t *testing.T) {
	t.Parallel()
	key := Key{Scope: "acct_42/charges", ID: "order-1"}
	const want = "acct_42/charges#0bafe22156d2" // printf order-1 | sha256sum
	if got := key.String(); got != want {
		t.Errorf("String() is %q, want %q", got, want)
	}

	var logged bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&logged, nil), slog.NewJSONHandler(&logged, nil)} {
		slog.New(handler).Info("m", "key", key, slog.Group("group", "key", key), "error", &Error{Key: key, Kind: ErrParked})
	}
	for name, text := range map[string]string{
		"%q": fmt.Sprintf("%q", key), "%+v": fmt.Sprintf("%+v", key), "slice": fmt.Sprintf("%+v", []Key{key}),
		"Record": fmt.Sprintf("%+v", Record[int]{Key: key}), "error": fmt.Sprintf("%+v", &Error{Key: key, Kind: ErrParked}),
		"slog": logged.String(),
	} {
		if !strings.Contains(text, want) || strings.Contains(text, key.ID) {
			t.Errorf("%s shows the key as %s, want %s", name, text, want)
		}
	}
	if n := strings.Count(logged.String(), want); n != 6 {
		t.Errorf("the logs show the key %d times, want 6:\n%s", n, logged.String())
	}
}

// TestKeyStringFindsTheRow runs the statement that the documentation of Key.String gives.
func TestKeyStringFindsTheRow(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("key.go")
	if err != nil {
		t.Fatal(err)
	}
	_, sql, found := strings.Cut(string(source), "//\tSELECT * FROM")
	sql, _, _ = strings.Cut(sql, "\n")
	sql = strings.Replace(sql, "'…'", "$1", 1)
	sql = strings.Replace(sql, "'…%'", "$2 || '%'", 1)
	if !found || strings.Contains(sql, "…") {
		t.Fatalf("key.go documents no statement that can be run: SELECT * FROM%s", sql)
	}

	pool := devpg.New(t).Pool(t)
	client, err := New(pool, Config{})
	if err != nil {
		t.Fatal(err)
	}
	var keys []Key
	for _, id := range []string{"order-1", "order-2", "größe 🚀", `%_\'"`, strings.Repeat("i", 255), "\x01", NewID()} {
		keys = append(keys, Key{"acct_42/charges", id}, Key{"acct_43/charges", id})
	}
	for _, key := range keys {
		if _, err := DoTx(t.Context(), client, key, func(context.Context, Tx) (int, error) { return 1, nil }); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range keys {
		scope, hash, _ := strings.Cut(key.String(), "#")
		rows, err := pool.Query(t.Context(), "SELECT scope, id FROM"+sql, scope, hash)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Key])
		if err != nil || len(got) != 1 || got[0] != key {
			t.Errorf("%v finds %q (%v), want %q", key, got, err, key.ID)
		}
	}
}

// TestKeyLock pins the locks: another hash would split the lock between two releases during a deploy. The numbers are
// the first eight bytes of printf 'pgidem.key.v1:a\0bc' | sha256sum as a signed integer.
func TestKeyLock(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		key  Key
		lock int64
	}{
		{Key{"acct_42/charges", "order-1"}, -7610468920824682895},
		{Key{"a", "bc"}, -8541711663491313103},
		{Key{"ab", "c"}, -4765508793368708970},
		{Key{"größe", "🚀"}, -9042752066609577101},
		{Key{strings.Repeat("s", 255), strings.Repeat("i", 255)}, -7028409004329625420},
	} {
		if got := c.key.lock(); got != c.lock {
			t.Errorf("lock of %q is %d, want %d: the hash must never change", c.key.Scope, got, c.lock)
		}
	}
}
