package pgidemcrypt

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/pgidem/pgidem/pgidem"
)

// Keyring is [Keys] in memory: for tests, and for small deployments that load it at start. The zero value is empty and
// ready to use. It is safe for concurrent use.
//
// It remembers which keys were destroyed as long as it lives. A program that stores its keys stores the IDs of the destroyed
// ones too, and tells Destroy at its next start: a key that is only missing is ErrNoKey, because it may still have to
// be loaded, and Client.Reseal does not go past what it sealed.
//
// Keep the secrets where they can really be destroyed: outside of the database whose answers they seal, with backups that
// are deleted too. A secret derived from one master key cannot be destroyed while the master key is there.
type Keyring struct {
	mu     sync.RWMutex
	scopes map[string]*ring
}

// ring is the keys of one scope; a nil secret was destroyed. No current ID: none was added yet.
type ring struct {
	current string
	secrets map[string][]byte
}

// Add makes key the scope's current one; the others still open what they have sealed. A restart adds a scope's keys in the
// order of their age. Returns pgidem.ErrConfig for a key that cannot work, and for an ID that the scope has or had.
func (k *Keyring) Add(scope string, key ScopeKey) error {
	if err := key.validate(); err != nil {
		return &pgidem.Error{Kind: pgidem.ErrConfig, Cause: err}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.ring(scope)
	if _, used := r.secrets[key.ID]; used {
		return &pgidem.Error{Kind: pgidem.ErrConfig, Reason: fmt.Sprintf("the scope %q has or had a scope key with the ID %q", scope, key.ID)}
	}
	r.secrets[key.ID] = bytes.Clone(key.Secret)
	r.current = key.ID
	return nil
}

// ring returns a scope's keys, of which there may be none.
func (k *Keyring) ring(scope string) *ring {
	if k.scopes == nil {
		k.scopes = make(map[string]*ring)
	}
	if k.scopes[scope] == nil {
		k.scopes[scope] = &ring{secrets: make(map[string][]byte)}
	}
	return k.scopes[scope]
}

// Rotate makes a new random key the scope's current one and returns it, to be stored.
func (k *Keyring) Rotate(scope string) ScopeKey {
	key := ScopeKey{ID: rand.Text(), Secret: make([]byte, SecretBytes)}
	_, _ = rand.Read(key.Secret) // never fails
	if err := k.Add(scope, key); err != nil {
		panic(err) // two equal IDs of 128 random bits
	}
	return key
}

// Destroy destroys keys of a scope, also ones that it does not know: they count as destroyed, and cannot be added any more.
// Without IDs it destroys nothing. What was sealed with them is lost to this process; whether for good depends on where
// else they are stored. Unless it is rotated or given another key, a scope whose current key was destroyed gets no new
// answers: its operations fail with pgidem.ErrResult and are rolled back.
func (k *Keyring) Destroy(scope string, ids ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range ids {
		k.ring(scope).secrets[id] = nil
	}
}

// DestroyScope destroys all keys of a scope that the keyring has, as Destroy does. Another may be added afterwards.
func (k *Keyring) DestroyScope(scope string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.scopes[scope]; r != nil {
		for id := range r.secrets {
			r.secrets[id] = nil
		}
	}
}

// Current returns the key that was added last.
func (k *Keyring) Current(_ context.Context, scope string) (ScopeKey, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	r := k.scopes[scope]
	if r == nil || r.current == "" {
		return ScopeKey{}, fmt.Errorf("%w: the keyring has none for the scope %q; add one", ErrNoKey, scope)
	}
	secret, err := r.secret(r.current)
	return ScopeKey{ID: r.current, Secret: secret}, err
}

// Secret returns the secret of one key.
func (k *Keyring) Secret(_ context.Context, scope, id string) ([]byte, error) {
	k.mu.RLock()
	defer k.mu.RUnlock()
	r := k.scopes[scope]
	if r == nil {
		return nil, fmt.Errorf("%w: the keyring has none for the scope %q", ErrNoKey, scope)
	}
	return r.secret(id)
}

func (r *ring) secret(id string) ([]byte, error) {
	secret, known := r.secrets[id]
	switch {
	case !known:
		return nil, fmt.Errorf("%w: the keyring has none with the ID %q for this scope", ErrNoKey, id)
	case secret == nil:
		return nil, fmt.Errorf("%w: %q", ErrKeyDestroyed, id)
	}
	return bytes.Clone(secret), nil
}
