package pgidemcrypt

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/pgidem/pgidem/pgidem"
)

// magic begins every sealed answer. No text begins with the byte 0xff, so no JSON does.
const magic = "\xffpgidem"

const version = 1

const (
	saltBytes = 32
	// gcmBytes is what AES-GCM with a random nonce adds: the nonce in front, the tag behind.
	gcmBytes     = 12 + 16
	wrappedBytes = dataKeyBytes + gcmBytes
	dataKeyBytes = 32
)

// wrapInfo tells what the keys derived from a scope key are for.
const wrapInfo = "pgidemcrypt.wrap.v1"

// envelope is a sealed answer in its parts. All are saved in this order, the ID of the scope key with its length before
// it.
type envelope struct {
	keyID   string
	salt    []byte // makes the key that wraps the data key, together with the scope key
	wrapped []byte // the data key
	body    []byte // the answer, encrypted with the data key
}

// header is what stands before the wrapped data key.
func (e envelope) header() []byte {
	length := byte(len(e.keyID)) //nolint:gosec // ScopeKey.validate allows MaxKeyIDBytes.
	return slices.Concat([]byte(magic), []byte{version, length}, []byte(e.keyID), e.salt)
}

func (e envelope) bytes() []byte { return slices.Concat(e.header(), e.wrapped, e.body) }

// parse takes sealed bytes apart.
func parse(sealed []byte) (envelope, error) {
	rest, sealedHere := bytes.CutPrefix(sealed, []byte(magic))
	if !sealedHere {
		return envelope{}, fmt.Errorf("%w: it does not begin as this package's answers do", ErrNotSealed)
	}
	if len(rest) == 0 {
		return envelope{}, fmt.Errorf("%w: it is cut off", ErrForged)
	}
	if rest[0] != version {
		return envelope{}, fmt.Errorf("%w as this release does it: it has version %d, this release reads %d", ErrNotSealed, rest[0], version)
	}
	rest = rest[1:]
	if len(rest) == 0 || rest[0] == 0 || len(rest) < 1+int(rest[0])+saltBytes+wrappedBytes+gcmBytes {
		return envelope{}, fmt.Errorf("%w: it is cut off", ErrForged)
	}
	id, rest := rest[1:1+int(rest[0])], rest[1+int(rest[0]):]
	return envelope{
		keyID:   string(id),
		salt:    rest[:saltBytes],
		wrapped: rest[saltBytes : saltBytes+wrappedBytes],
		body:    rest[saltBytes+wrappedBytes:],
	}, nil
}

// wrap encrypts a data key with a scope key. Each wrapping has a key of its own, derived with a random salt, so that a
// scope key may seal any number of answers: random nonces alone would begin to repeat after 2^32.
func wrap(key pgidem.Key, part pgidem.Part, by ScopeKey, dataKey []byte) (envelope, error) {
	e := envelope{keyID: by.ID, salt: random(saltBytes)}
	gcm, err := e.wrapping(by.Secret)
	if err != nil {
		return envelope{}, err
	}
	e.wrapped = gcm.Seal(nil, nil, dataKey, append(e.header(), identity(key, part)...)) //nolint:gosec // newGCM's Seal draws its nonce.
	return e, nil
}

// unwrap returns the data key.
func (e envelope) unwrap(key pgidem.Key, part pgidem.Part, secret []byte) ([]byte, error) {
	gcm, err := e.wrapping(secret)
	if err != nil {
		return nil, err
	}
	dataKey, err := gcm.Open(nil, nil, e.wrapped, append(e.header(), identity(key, part)...))
	if err != nil {
		return nil, fmt.Errorf("%w: its data key cannot be unwrapped with the scope key %q for this pgidem.Key and part", ErrForged, e.keyID)
	}
	return dataKey, nil
}

func (e envelope) wrapping(secret []byte) (cipher.AEAD, error) {
	derived, err := hkdf.Key(sha256.New, secret, e.salt, wrapInfo, dataKeyBytes)
	if err != nil {
		return nil, fmt.Errorf("derive from the scope key %q: %w", e.keyID, err)
	}
	return newGCM(derived)
}

// encrypt is called once with each data key.
func encrypt(key pgidem.Key, part pgidem.Part, dataKey, plain []byte) ([]byte, error) {
	gcm, err := newGCM(dataKey)
	if err != nil {
		return nil, err
	}
	return gcm.Seal(nil, nil, plain, bodyData(key, part)), nil //nolint:gosec // newGCM's Seal draws its nonce.
}

func (e envelope) decrypt(key pgidem.Key, part pgidem.Part, dataKey []byte) ([]byte, error) {
	gcm, err := newGCM(dataKey)
	if err != nil {
		return nil, err
	}
	plain, err := gcm.Open(nil, nil, e.body, bodyData(key, part))
	if err != nil {
		return nil, fmt.Errorf("%w: it was changed, or belongs to another pgidem.Key or part", ErrForged)
	}
	return plain, nil
}

func newGCM(secret []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("make an AES-256 cipher: %w", err)
	}
	gcm, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make AES-GCM: %w", err)
	}
	return gcm, nil
}

// bodyData is authenticated with the answer. The scope key's ID and the wrapped data key are not in it, because
// resealing changes them; they are authenticated with the data key, of which there is one for each answer.
func bodyData(key pgidem.Key, part pgidem.Part) []byte {
	return slices.Concat([]byte(magic), []byte{version}, identity(key, part))
}

// identity encodes whose answer it is and what part of it, such that no two have the same encoding.
func identity(key pgidem.Key, part pgidem.Part) []byte {
	encoded := binary.BigEndian.AppendUint64(nil, uint64(len(key.Scope)))
	encoded = append(encoded, key.Scope...)
	encoded = binary.BigEndian.AppendUint64(encoded, uint64(len(key.ID)))
	encoded = append(encoded, key.ID...)
	return append(encoded, part...)
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
