package pgidem

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
)

// fingerprintSHA256 is the algorithm id of this release's fingerprints. Rows keep the id beside the digest, so that a
// later algorithm can tell its own digests from these.
const fingerprintSHA256 int16 = 1

// Fingerprint is the digest of a request. A key that was used with one fingerprint is refused with another
// ([ErrKeyReused]): the caller has given two different requests the same key, and would get the answer to the wrong
// one. The zero value is "no fingerprint" and is compared with nothing.
type Fingerprint struct {
	algorithm int16
	digest    []byte
}

// NewFingerprint digests the parts of a request, for example method, path and body. Each part is hashed with its
// length, so ("ab", "c") and ("a", "bc") differ. Leave out what may change between a request and its retry: times,
// trace ids, signatures.
func NewFingerprint(parts ...[]byte) Fingerprint {
	h := sha256.New()
	var length [8]byte
	for _, part := range parts {
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		h.Write(length[:])
		h.Write(part)
	}
	return Fingerprint{algorithm: fingerprintSHA256, digest: h.Sum(nil)}
}

// FingerprintOf digests the JSON encoding of input. Maps are encoded in key order; a struct whose fields change
// between two releases gets another fingerprint, so retries across such a deploy are refused.
// encoding/json replaces bytes that are not UTF-8: digest raw bytes by [NewFingerprint]. It fails where input has no
// JSON encoding.
func FingerprintOf(input any) (Fingerprint, error) {
	text, err := json.Marshal(input)
	if err != nil {
		return Fingerprint{}, fmt.Errorf("pgidem: the input has no JSON encoding, so it cannot be fingerprinted: %w", err)
	}
	return NewFingerprint(text), nil
}

// IsZero reports whether f is "no fingerprint".
func (f Fingerprint) IsZero() bool { return f.algorithm == 0 }

// matches is lenient only where one side gave none: a digest made by an algorithm that we do not know may stand for
// another request, and answering from the wrong one is worse than refusing.
func (f Fingerprint) matches(saved Fingerprint) bool {
	if f.IsZero() || saved.IsZero() {
		return true
	}
	return f.algorithm == saved.algorithm && bytes.Equal(f.digest, saved.digest)
}
