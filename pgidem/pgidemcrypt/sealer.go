package pgidemcrypt

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/pgidem/pgidem/pgidem"
)

// Opts are the options of [New]. nil and the zero value are right unless answers were saved in plain before.
type Opts struct {
	// AcceptPlain lets answers that are not sealed through as they are. It is for the time after encryption was switched
	// on: until the plain answers have expired, or pgidem's Client.Reseal has sealed them. Meanwhile, whoever can write to
	// the table can put a plain answer of their own there.
	AcceptPlain bool
	// LeavePlain saves new answers in plain, and only opens sealed ones. It is for the first of two deployments: a
	// process without a Sealer cannot read sealed answers, so all must be able to open them before the first one
	// seals. It needs AcceptPlain.
	LeavePlain bool
}

// Sealer seals answers with the scope's key; see the package's documentation. It keeps nothing between two calls.
type Sealer struct {
	keys Keys
	opts Opts
}

var _ interface {
	pgidem.Sealer
	pgidem.Resealer
} = (*Sealer)(nil)

// New returns a sealer for pgidem.Config.Sealer. It asks for no key yet. At most one opts is accepted. Returns
// pgidem.ErrConfig.
func New(keys Keys, opts ...*Opts) (*Sealer, error) {
	s := &Sealer{keys: keys}
	ring, isRing := keys.(*Keyring)
	if keys == nil || isRing && ring == nil || len(opts) > 1 {
		return nil, &pgidem.Error{Kind: pgidem.ErrConfig, Reason: "pgidemcrypt.New needs keys and at most one Opts"}
	}
	if len(opts) == 1 && opts[0] != nil {
		s.opts = *opts[0]
	}
	if s.opts.LeavePlain && !s.opts.AcceptPlain {
		return nil, &pgidem.Error{Kind: pgidem.ErrConfig, Reason: "Opts.LeavePlain needs Opts.AcceptPlain: what is left plain must be read again"}
	}
	return s, nil
}

// Seal encrypts plain with a data key of its own, and that with the scope's current key.
func (s *Sealer) Seal(ctx context.Context, key pgidem.Key, part pgidem.Part, plain []byte) ([]byte, error) {
	if s.opts.LeavePlain {
		if bytes.HasPrefix(plain, []byte(magic)) {
			return nil, errors.New("the encoded answer begins as sealed ones do, and could not be told from them while Opts.LeavePlain is set")
		}
		return plain, nil
	}
	return s.seal(ctx, key, part, plain)
}

func (s *Sealer) seal(ctx context.Context, key pgidem.Key, part pgidem.Part, plain []byte) ([]byte, error) {
	current, err := s.current(ctx, key.Scope)
	if err != nil {
		return nil, err
	}
	dataKey := random(dataKeyBytes)
	e, err := wrap(key, part, current, dataKey)
	if err != nil {
		return nil, err
	}
	if e.body, err = encrypt(key, part, dataKey, plain); err != nil {
		return nil, err
	}
	return e.bytes(), nil
}

// Open decrypts what Seal or Reseal returned for the same key and part. Its errors are ErrKeyDestroyed, ErrNoKey, ErrForged,
// ErrNotSealed and those of [Keys].
func (s *Sealer) Open(ctx context.Context, key pgidem.Key, part pgidem.Part, sealed []byte) ([]byte, error) {
	if s.isPlain(sealed) {
		return sealed, nil
	}
	e, dataKey, err := s.unwrap(ctx, key, part, sealed)
	if err != nil {
		return nil, err
	}
	return e.decrypt(key, part, dataKey)
}

// Reseal wraps the answer's data key with the scope's current key; the encrypted answer stays as it is. A plain
// answer is sealed where [Opts].AcceptPlain is set and LeavePlain is not. nil means that nothing is to be changed.
//
// Answers that cannot be opened any more (ErrKeyDestroyed, ErrForged) are pgidem.ErrResult.
func (s *Sealer) Reseal(ctx context.Context, key pgidem.Key, part pgidem.Part, sealed []byte) ([]byte, error) {
	if s.isPlain(sealed) {
		if s.opts.LeavePlain {
			return nil, nil
		}
		return s.seal(ctx, key, part, sealed)
	}
	old, dataKey, err := s.unwrap(ctx, key, part, sealed)
	if err == nil {
		_, err = old.decrypt(key, part, dataKey) // what is forged must not get a new seal
	}
	if errors.Is(err, ErrKeyDestroyed) || errors.Is(err, ErrForged) {
		err = &pgidem.Error{Key: key, Kind: pgidem.ErrResult, Reason: "it cannot be opened any more", Cause: err}
	}
	if err != nil {
		return nil, err
	}
	current, err := s.current(ctx, key.Scope)
	if err != nil || current.ID == old.keyID {
		return nil, err
	}
	e, err := wrap(key, part, current, dataKey)
	if err != nil {
		return nil, err
	}
	e.body = old.body
	return e.bytes(), nil
}

// isPlain reports whether the bytes are an answer from before encryption.
func (s *Sealer) isPlain(saved []byte) bool {
	return s.opts.AcceptPlain && !bytes.HasPrefix(saved, []byte(magic))
}

func (s *Sealer) unwrap(ctx context.Context, key pgidem.Key, part pgidem.Part, sealed []byte) (envelope, []byte, error) {
	e, err := parse(sealed)
	if err != nil {
		return envelope{}, nil, err
	}
	secret, err := s.keys.Secret(ctx, key.Scope, e.keyID)
	if err == nil {
		err = ScopeKey{ID: e.keyID, Secret: secret}.validate()
	}
	if err != nil {
		return envelope{}, nil, fmt.Errorf("ask for the scope key that the answer was sealed with: %w", err)
	}
	dataKey, err := e.unwrap(key, part, secret)
	return e, dataKey, err
}

func (s *Sealer) current(ctx context.Context, scope string) (ScopeKey, error) {
	current, err := s.keys.Current(ctx, scope)
	if err == nil {
		err = current.validate()
	}
	if err != nil {
		return ScopeKey{}, fmt.Errorf("ask for the current scope key: %w", err)
	}
	return current, nil
}
