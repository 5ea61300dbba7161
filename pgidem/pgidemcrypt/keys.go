package pgidemcrypt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// What makes an answer unreadable. A call that meets it gets pgidem.ErrResult with it as the cause.
var (
	// ErrKeyDestroyed: the scope key was destroyed, and what was sealed with it is gone. An implementation of [Keys]
	// returns it only where it knows that the key existed and will not come back.
	ErrKeyDestroyed = errors.New("the scope key was destroyed")
	// ErrNoKey: there is no such scope key. It may still have to be loaded, or is another environment's.
	ErrNoKey = errors.New("no such scope key")
	// ErrForged: the bytes were changed or cut off, or belong to another pgidem.Key or pgidem.Part, or the scope key is not
	// the one that they were sealed with.
	ErrForged = errors.New("the sealed answer is not authentic")
	// ErrNotSealed: the bytes were not sealed by this package, or by a later release of it. Where they are plain
	// answers from before encryption, see [Opts].AcceptPlain.
	ErrNotSealed = errors.New("the answer is not sealed")
)

const (
	// SecretBytes is how long the secret of a scope key is.
	SecretBytes = 32
	// MaxKeyIDBytes is how long the ID of a scope key may be.
	MaxKeyIDBytes = 255
)

// ScopeKey is what the answers of one scope are sealed with. Printing or logging it shows the ID only, and JSON refuses it:
// to store one, write ID and Secret yourself.
type ScopeKey struct {
	// ID names the key within its scope, 1 to MaxKeyIDBytes bytes. It is saved with every answer in the clear, and must
	// never stand for another secret.
	ID string
	// Secret is SecretBytes random bytes. They must be random, not derived from another secret that stays: destroying
	// the key would then destroy nothing.
	Secret []byte
}

// Format keeps the secret out of logs, whatever the verb.
func (k ScopeKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "scope key "+k.ID) }

// LogValue does the same in package slog, which would otherwise ask for JSON.
func (k ScopeKey) LogValue() slog.Value { return slog.StringValue("scope key " + k.ID) }

// MarshalJSON fails. With the secret, keys would end in logs and answers that nobody meant to hold them; without it, a key
// that was meant to be stored would be lost when the process ends, and what it has sealed too.
func (k ScopeKey) MarshalJSON() ([]byte, error) {
	return nil, fmt.Errorf("scope key %q: it is not written as JSON, since it holds a secret; to store it, write ID and Secret as fields of your own", k.ID)
}

// UnmarshalJSON fails likewise.
func (k *ScopeKey) UnmarshalJSON([]byte) error {
	return errors.New("scope key: it is not read from JSON, since it is not written as such; read ID and Secret as fields of your own")
}

func (k ScopeKey) validate() error {
	switch {
	case k.ID == "":
		return errors.New("the scope key has no ID")
	case len(k.ID) > MaxKeyIDBytes:
		return fmt.Errorf("the ID of the scope key is %d bytes long, %d are allowed", len(k.ID), MaxKeyIDBytes)
	case len(k.Secret) != SecretBytes:
		return fmt.Errorf("the secret of the scope key %q is %d bytes long, not %d", k.ID, len(k.Secret), SecretBytes)
	}
	return nil
}

// Keys is where scope keys are kept: a KMS, a vault, a table, or a [Keyring]. It must be safe for concurrent use.
//
// It is asked while an operation's transaction is open and holds the key, once to seal and once to open for a new
// answer, and once for each replay. So keep answers in memory for a while; for that while, a key that
// was rotated is still used, and one that was destroyed still opens.
type Keys interface {
	// Current returns the key that the scope's new answers are sealed with.
	Current(ctx context.Context, scope string) (ScopeKey, error)
	// Secret returns the secret of one of the scope's keys, current or not. Where it was destroyed, the error is or
	// wraps ErrKeyDestroyed.
	Secret(ctx context.Context, scope, id string) ([]byte, error)
}
