package pgidemcrypt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/pgidem"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	var none *Keyring
	for name, err := range map[string]error{
		"NoKeys":             second(New(nil)),
		"NilKeyring":         second(New(none)),
		"TwoOpts":            second(New(new(Keyring), nil, nil)),
		"LeavePlainUnopened": second(New(new(Keyring), &Opts{LeavePlain: true})),
	} {
		if !errors.Is(err, pgidem.ErrConfig) {
			t.Errorf("%s: got %v, want %v", name, err, pgidem.ErrConfig)
		}
	}
	if err := second(New(new(Keyring), nil)); err != nil {
		t.Errorf("nil options: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// staticKeys hands out one key, fit or not.
type staticKeys struct {
	key ScopeKey
	err error
}

func (k staticKeys) Current(context.Context, string) (ScopeKey, error) { return k.key, k.err }

func (k staticKeys) Secret(context.Context, string, string) ([]byte, error) {
	return k.key.Secret, k.err
}

// What a user's Keys gets wrong is an error with a reason, before anything is encrypted with it.
func TestUnfitKeys(t *testing.T) {
	t.Parallel()
	secret := bytes.Repeat([]byte{7}, SecretBytes)
	s, err := New(staticKeys{key: ScopeKey{ID: "k", Secret: secret}})
	if err != nil {
		t.Fatal(err)
	}
	sealed := mustSeal(t, s, testKey, testPlain)
	down := errors.New("the KMS is down")
	for name, keys := range map[string]staticKeys{
		"NoID":        {key: ScopeKey{Secret: secret}},
		"LongID":      {key: ScopeKey{ID: strings.Repeat("k", 256), Secret: secret}},
		"NoSecret":    {key: ScopeKey{ID: "k"}},
		"ShortSecret": {key: ScopeKey{ID: "k", Secret: secret[1:]}},
		"LongSecret":  {key: ScopeKey{ID: "k", Secret: append([]byte{1}, secret...)}},
		"Error":       {key: ScopeKey{ID: "k", Secret: secret}, err: down},
	} {
		s, err := New(keys)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := s.Seal(t.Context(), testKey, pgidem.PartResult, testPlain); err == nil || got != nil || !errors.Is(err, keys.err) && keys.err != nil {
			t.Errorf("%s: sealed as %q, %v", name, got, err)
		}
		badID := name == "NoID" || name == "LongID" // Secret returns none
		if got, err := s.Open(t.Context(), testKey, pgidem.PartResult, sealed); !badID && (err == nil || got != nil) {
			t.Errorf("%s: opened as %q, %v", name, got, err)
		}
		if err := new(Keyring).Add("s", keys.key); keys.err == nil && !errors.Is(err, pgidem.ErrConfig) {
			t.Errorf("%s: the keyring said %v", name, err)
		}
	}
	s, err = New(staticKeys{key: ScopeKey{ID: strings.Repeat("k", 255), Secret: secret}})
	if err != nil {
		t.Fatal(err)
	}
	wantOpen(t, s, testKey, mustSeal(t, s, testKey, testPlain), testPlain)
}

func TestRotation(t *testing.T) {
	t.Parallel()
	s, keys := newSealer(t)
	old := mustSeal(t, s, testKey, testPlain)
	if resealed, err := s.Reseal(t.Context(), testKey, pgidem.PartResult, old); resealed != nil || err != nil {
		t.Errorf("before rotation it is resealed as %q, %v", resealed, err)
	}
	oldID := mustParse(t, old).keyID
	current := keys.Rotate(testKey.Scope)
	wantOpen(t, s, testKey, old, testPlain)
	if id := mustParse(t, mustSeal(t, s, testKey, testPlain)).keyID; id != current.ID {
		t.Errorf("new answers are sealed with %q, want %q", id, current.ID)
	}

	resealed, err := s.Reseal(t.Context(), testKey, pgidem.PartResult, old)
	if err != nil {
		t.Fatal(err)
	}
	before, after := mustParse(t, old), mustParse(t, resealed)
	if after.keyID != current.ID || !bytes.Equal(after.body, before.body) || bytes.Equal(after.wrapped, before.wrapped) {
		t.Error("resealing did not wrap the data key anew, or not only that")
	}
	keys.Destroy(testKey.Scope, oldID)
	wantOpen(t, s, testKey, resealed, testPlain)
	wantClosed(t, s, testKey, old, ErrKeyDestroyed)
	wantClosed(t, s, pgidem.Key{Scope: testKey.Scope, ID: "another"}, resealed, ErrForged)
}

func mustParse(t *testing.T, sealed []byte) envelope {
	t.Helper()
	e, err := parse(sealed)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// What Reseal calls lost must be lost: a key that was not loaded, or a current one that was destroyed, is not.
func TestResealTellsWhatIsLost(t *testing.T) {
	t.Parallel()
	s, keys := newSealer(t)
	sealed := mustSeal(t, s, testKey, testPlain)
	first := mustParse(t, sealed).keyID
	forged := bytes.Clone(sealed)
	forged[len(forged)-1] ^= 1
	other, _ := newSealer(t)
	latest := keys.Rotate(testKey.Scope)
	check := func(name string, s *Sealer, sealed []byte, cause error, lost bool) {
		t.Helper()
		resealed, err := s.Reseal(t.Context(), testKey, pgidem.PartResult, sealed)
		if resealed != nil || !errors.Is(err, cause) || errors.Is(err, pgidem.ErrResult) != lost {
			t.Errorf("%s: got %q, %v; want %v, lost: %v", name, resealed, err, cause, lost)
		}
	}
	check("forged", s, forged, ErrForged, true)
	check("another ring", other, sealed, ErrNoKey, false)
	check("plain", s, testPlain, ErrNotSealed, false)
	keys.Destroy(testKey.Scope, latest.ID)
	check("current key destroyed", s, sealed, ErrKeyDestroyed, false)
	keys.Rotate(testKey.Scope)
	keys.Destroy(testKey.Scope, first)
	check("its key destroyed", s, sealed, ErrKeyDestroyed, true)
}

func TestFromPlainToSealed(t *testing.T) {
	t.Parallel()
	strict, keys := newSealer(t)
	learning, err := New(keys, &Opts{AcceptPlain: true, LeavePlain: true})
	if err != nil {
		t.Fatal(err)
	}
	accepting, err := New(keys, &Opts{AcceptPlain: true})
	if err != nil {
		t.Fatal(err)
	}

	if saved := mustSeal(t, learning, testKey, testPlain); !bytes.Equal(saved, testPlain) {
		t.Errorf("%q was saved, want it as it is", saved)
	}
	sealed := mustSeal(t, accepting, testKey, testPlain)
	for _, s := range []*Sealer{learning, accepting} {
		wantOpen(t, s, testKey, testPlain, testPlain)
		wantOpen(t, s, testKey, sealed, testPlain)
		wantClosed(t, s, testKey, sealed[:len(sealed)-1], ErrForged)
	}
	wantOpen(t, strict, testKey, sealed, testPlain)
	wantClosed(t, strict, testKey, testPlain, ErrNotSealed)

	if resealed, err := learning.Reseal(t.Context(), testKey, pgidem.PartResult, testPlain); resealed != nil || err != nil {
		t.Errorf("resealed as %q, %v although new answers are left plain", resealed, err)
	}
	resealed, err := accepting.Reseal(t.Context(), testKey, pgidem.PartResult, testPlain)
	if err != nil {
		t.Fatal(err)
	}
	wantOpen(t, strict, testKey, resealed, testPlain)
	if got, err := learning.Seal(t.Context(), testKey, pgidem.PartResult, []byte(magic+"x")); err == nil {
		t.Errorf("saved as %q, which could not be opened again", got)
	}
}

func TestScopeKeyIsNotPrinted(t *testing.T) {
	t.Parallel()
	key := ScopeKey{ID: "2026-11", Secret: []byte("a secret that nobody may see....")}
	var logged bytes.Buffer
	slog.New(slog.NewTextHandler(&logged, nil)).Info("rotated", "key", key)
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("rotated", "key", &key)
	all := fmt.Sprintf("%v %+v %#v %s %x %d %v", key, key, key, key, key, key, []any{&key}) + logged.String()
	for _, form := range []string{"a secret", "YSBzZWNyZXQ", "6120736563726574", "97 32 115"} {
		if strings.Contains(all, form) {
			t.Errorf("%s shows the secret as %s", all, form)
		}
	}
	if got := strings.Count(logged.String(), "scope key 2026-11"); got != 2 {
		t.Errorf("%s names the key %d times, want 2", logged.String(), got)
	}
	if !strings.Contains(all, "scope key 2026-11") {
		t.Errorf("%s does not name the key", all)
	}
}

// A key that was stored as JSON without its secret would be lost, and one that was sent with it would be known.
func TestScopeKeyIsNoJSON(t *testing.T) {
	t.Parallel()
	key := new(Keyring).Rotate("s")
	for _, value := range []any{key, &key, []ScopeKey{key}, struct{ Key ScopeKey }{key}} {
		if text, err := json.Marshal(value); err == nil {
			t.Errorf("%T is written as %s", value, text)
		}
	}
	var read ScopeKey
	if err := json.Unmarshal([]byte(`{"ID":"2026-11"}`), &read); err == nil {
		t.Errorf("%v was read, without a secret", read)
	}
}
