package pgidem

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// An entry of a cache:
//
//	1 byte    version
//	32 bytes  SHA-256 over the key and all that follows: damage and mixed-up keys are misses
//	1 byte    kind, 't' for tx or 'm' for steps, of which there are many
//	1 byte    state, 's' for succeeded or 'f' for failed
//	4 bytes   attempt
//	2 bytes   the fingerprint's algorithm
//	1 byte    length of the fingerprint's digest
//	          the digest
//	          the result or failure as it is saved
const (
	entryVersion = 1
	entryHead    = 1 + sha256.Size
	entryFixed   = entryHead + 1 + 1 + 4 + 2 + 1

	entryTx        = 't'
	entrySteps     = 'm'
	entrySucceeded = 's'
	entryFailed    = 'f'
)

// entry is what a cache keeps of an outcome.
type entry struct {
	steps       bool // of an operation of several steps
	state       byte
	attempt     int
	fingerprint Fingerprint
	saved       []byte
}

// entryOf returns the entry of an outcome.
func entryOf(kind string, out outcome) entry {
	e := entry{steps: kind == kindSteps, state: entrySucceeded, attempt: out.attempt, fingerprint: out.fingerprint, saved: out.result}
	if out.failure != nil {
		e.state, e.saved = entryFailed, out.savedFailure
	}
	return e
}

// encode returns nil for an entry that has no encoding, which no row of this release has.
func (e entry) encode(key Key) []byte {
	digest := e.fingerprint.digest
	if len(digest) > math.MaxUint8 || e.attempt < 1 || e.attempt > math.MaxInt32 {
		return nil
	}
	b := make([]byte, entryHead, entryFixed+len(digest)+len(e.saved))
	kind := byte(entryTx)
	if e.steps {
		kind = entrySteps
	}
	b = append(b, kind, e.state)
	b = binary.BigEndian.AppendUint32(b, uint32(e.attempt))
	b = binary.BigEndian.AppendUint16(b, uint16(e.fingerprint.algorithm)) //nolint:gosec // All 16 bits are kept.
	b = append(b, byte(len(digest)))                                      //nolint:gosec // Checked above.
	b = append(b, digest...)
	b = append(b, e.saved...)
	b[0] = entryVersion
	sum := entrySum(key, b[entryHead:])
	copy(b[1:], sum[:])
	return b
}

// decodeEntry reads what a cache returned, which may be anything.
func decodeEntry(key Key, b []byte) (entry, bool) {
	if len(b) < entryFixed || b[0] != entryVersion || [sha256.Size]byte(b[1:entryHead]) != entrySum(key, b[entryHead:]) {
		return entry{}, false
	}
	body := b[entryHead:]
	e := entry{steps: body[0] == entrySteps, state: body[1], fingerprint: Fingerprint{algorithm: int16(binary.BigEndian.Uint16(body[6:]))}} //nolint:gosec // As written.
	attempt, length := binary.BigEndian.Uint32(body[2:]), int(body[8])
	rest := body[entryFixed-entryHead:]
	if body[0] != entryTx && body[0] != entrySteps || e.state != entrySucceeded && e.state != entryFailed ||
		attempt == 0 || attempt > math.MaxInt32 || len(rest) < length || (length == 0) != e.fingerprint.IsZero() {
		return entry{}, false
	}
	e.attempt = int(attempt)
	if length > 0 {
		e.fingerprint.digest = rest[:length:length]
	}
	e.saved = rest[length:]
	return e, true
}

// entrySum hashes the key's parts with their lengths, which fit into a byte.
func entrySum(key Key, body []byte) (sum [sha256.Size]byte) {
	h := sha256.New()
	h.Write([]byte{byte(len(key.Scope)), byte(len(key.ID))}) //nolint:gosec // At most MaxKeyBytes each.
	h.Write([]byte(key.Scope))
	h.Write([]byte(key.ID))
	h.Write(body)
	h.Sum(sum[:0])
	return sum
}
