package pgidemcrypt

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/pgidem/pgidem/pgidem"
)

func TestKeyring(t *testing.T) {
	t.Parallel()
	ctx, keys := t.Context(), new(Keyring)
	if _, err := keys.Current(ctx, "s"); !errors.Is(err, ErrNoKey) {
		t.Errorf("an empty keyring says %v, want %v", err, ErrNoKey)
	}
	if _, err := keys.Secret(ctx, "s", "k"); !errors.Is(err, ErrNoKey) {
		t.Errorf("an empty keyring says %v, want %v", err, ErrNoKey)
	}
	keys.DestroyScope("s")

	first := ScopeKey{ID: "first", Secret: bytes.Repeat([]byte{1}, SecretBytes)}
	if err := keys.Add("s", first); err != nil {
		t.Fatal(err)
	}
	latest := keys.Rotate("s")
	keys.Rotate("another")
	if current, err := keys.Current(ctx, "s"); err != nil || current.ID != latest.ID || !bytes.Equal(current.Secret, latest.Secret) {
		t.Errorf("the current key is %v, %v; want %v", current, err, latest)
	}
	if secret, err := keys.Secret(ctx, "s", "first"); err != nil || !bytes.Equal(secret, first.Secret) {
		t.Errorf("the first key has the secret %x, %v", secret, err)
	}
	if _, err := keys.Secret(ctx, "another", "first"); !errors.Is(err, ErrNoKey) {
		t.Errorf("another scope's key: %v, want %v", err, ErrNoKey)
	}

	keys.Destroy("s") // no IDs: a search for old keys that found none
	if _, err := keys.Secret(ctx, "s", "first"); err != nil {
		t.Errorf("destroying no keys: %v", err)
	}
	keys.Destroy("s", "first")
	if _, err := keys.Secret(ctx, "s", "first"); !errors.Is(err, ErrKeyDestroyed) {
		t.Errorf("a destroyed key: %v, want %v", err, ErrKeyDestroyed)
	}
	if _, err := keys.Secret(ctx, "s", "unknown"); !errors.Is(err, ErrNoKey) {
		t.Errorf("a key that never was: %v, want %v", err, ErrNoKey)
	}
	if err := keys.Add("s", first); !errors.Is(err, pgidem.ErrConfig) {
		t.Errorf("adding a destroyed key: %v, want %v", err, pgidem.ErrConfig)
	}
	if current, err := keys.Current(ctx, "s"); err != nil || current.ID != latest.ID {
		t.Errorf("the current key is %v, %v; want %v", current, err, latest)
	}

	keys.DestroyScope("s")
	if _, err := keys.Current(ctx, "s"); !errors.Is(err, ErrKeyDestroyed) {
		t.Errorf("the current key of a destroyed scope: %v, want %v", err, ErrKeyDestroyed)
	}
	if _, err := keys.Current(ctx, "another"); err != nil {
		t.Errorf("another scope's current key: %v", err)
	}
	keys.Rotate("s")
	if _, err := keys.Current(ctx, "s"); err != nil {
		t.Errorf("a scope that has come back: %v", err)
	}
}

// What was destroyed before a restart is destroyed behind it too, whatever else is loaded, and in whatever order.
func TestKeyringIsToldWhatWasDestroyed(t *testing.T) {
	t.Parallel()
	ctx, before := t.Context(), new(Keyring)
	old, latest := before.Rotate("s"), before.Rotate("s")
	for name, load := range map[string]func(*Keyring) error{
		"DestroyedFirst": func(k *Keyring) error { k.Destroy("s", old.ID); return k.Add("s", latest) },
		"AddedFirst":     func(k *Keyring) error { err := k.Add("s", latest); k.Destroy("s", old.ID); return err },
	} {
		keys := new(Keyring)
		if err := load(keys); err != nil {
			t.Fatal(err)
		}
		if _, err := keys.Secret(ctx, "s", old.ID); !errors.Is(err, ErrKeyDestroyed) {
			t.Errorf("%s: the old key: %v, want %v", name, err, ErrKeyDestroyed)
		}
		if current, err := keys.Current(ctx, "s"); err != nil || current.ID != latest.ID {
			t.Errorf("%s: the current key is %v, %v; want %v", name, current, err, latest)
		}
		if err := keys.Add("s", old); !errors.Is(err, pgidem.ErrConfig) {
			t.Errorf("%s: adding the destroyed key: %v, want %v", name, err, pgidem.ErrConfig)
		}
	}
	empty := new(Keyring)
	empty.Destroy("s", old.ID)
	if _, err := empty.Current(ctx, "s"); !errors.Is(err, ErrNoKey) || errors.Is(err, ErrKeyDestroyed) {
		t.Errorf("the current key where only the old one is known: %v, want %v", err, ErrNoKey)
	}
}

// A caller that writes into what it has does not change what is kept.
func TestKeyringCopies(t *testing.T) {
	t.Parallel()
	keys, want := new(Keyring), bytes.Repeat([]byte{1}, SecretBytes)
	given := bytes.Clone(want)
	if err := keys.Add("s", ScopeKey{ID: "k", Secret: given}); err != nil {
		t.Fatal(err)
	}
	given[0] = 2
	current, err := keys.Current(t.Context(), "s")
	if err != nil {
		t.Fatal(err)
	}
	current.Secret[1] = 2
	secret, err := keys.Secret(t.Context(), "s", "k")
	if err != nil || !bytes.Equal(secret, want) {
		t.Errorf("the secret is %x, %v; want %x", secret, err, want)
	}
}

func TestKeyringAtOnce(t *testing.T) {
	t.Parallel()
	s, keys := newSealer(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 50 {
				keys.Rotate(testKey.Scope)
				wantOpen(t, s, testKey, mustSeal(t, s, testKey, testPlain), testPlain)
				keys.Destroy(testKey.Scope, "unknown")
			}
		})
	}
	all.Wait()
}
