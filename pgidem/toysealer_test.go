package pgidem

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
)

// toySealer hides nothing from anybody who looks twice, but everything from a search, and binds what it seals to the key and the part. Its
// hooks see every call before it is done, and may fail it.
type toySealer struct {
	generation atomic.Int64 // of the seals that are made now
	onSeal     func(context.Context) error
	onOpen     func(context.Context) error
	onReseal   func(context.Context, Key) error
}

var errSealer = errors.New("the sealer's service is down")

func (s *toySealer) Seal(ctx context.Context, key Key, part Part, plain []byte) ([]byte, error) {
	if s.onSeal != nil {
		if err := s.onSeal(ctx); err != nil {
			return nil, err
		}
	}
	return []byte(fmt.Sprintf("%d%s%s", s.generation.Load(), toyHead(key, part), turned(plain))), nil
}

func (s *toySealer) Open(ctx context.Context, key Key, part Part, sealed []byte) ([]byte, error) {
	if s.onOpen != nil {
		if err := s.onOpen(ctx); err != nil {
			return nil, err
		}
	}
	_, text, found := bytes.Cut(sealed, []byte(toyHead(key, part)))
	if !found {
		return nil, errors.New("sealed for another key or part")
	}
	return turned(text), nil
}

// Reseal is what makes a toySealer a Resealer.
func (s *toySealer) Reseal(ctx context.Context, key Key, part Part, sealed []byte) ([]byte, error) {
	if s.onReseal != nil {
		if err := s.onReseal(ctx, key); err != nil {
			return nil, err
		}
	}
	_, text, _ := bytes.Cut(sealed, []byte(toyHead(key, part)))
	resealed := []byte(fmt.Sprintf("%d%s%s", s.generation.Load(), toyHead(key, part), text))
	if bytes.Equal(resealed, sealed) {
		return nil, nil
	}
	return resealed, nil
}

func toyHead(key Key, part Part) string {
	return "|" + key.Scope + "|" + key.ID + "|" + string(part) + "|"
}

func turned(text []byte) []byte {
	out := bytes.Clone(text)
	for i := range out {
		out[i] = ^out[i]
	}
	return out
}
