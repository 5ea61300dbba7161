package pgidem

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxKeyBytes is how long a scope or an ID may be, in bytes.
const MaxKeyBytes = 255

// lockNamespace separates the locks of keys from every other user of advisory locks in the same database. Changing it
// would let two releases of the library run one key side by side during a deploy (the unique row would still stop
// the second commit).
const lockNamespace = "pgidem.key.v1:"

// Key names an operation that is done once. Both parts are required, 1 to 255 bytes of valid UTF-8 without NUL.
type Key struct {
	// Scope says who and what may share an ID, for example "acct_42/charges": two callers with the same ID in
	// different scopes never meet. It is never defaulted, because a missing tenant in a key hands one customer's
	// answer to another.
	Scope string
	// ID is the caller's idempotency key within the scope, for example the value of an Idempotency-Key header.
	// Time-ordered IDs ([NewID]) keep neighbours together in the index.
	ID string
}

// String returns the scope and a short hash of the ID, fit for logs: an ID may be a secret that replays an answer. fmt and slog
// use it; encoding/json and other reflection do not.
// The hash is the beginning of SHA-256 over the ID, so that an operator finds the row with
//
//	SELECT * FROM idempotency_keys WHERE scope = '…' AND encode(sha256(convert_to(id, 'UTF8')), 'hex') LIKE '…%'
func (k Key) String() string {
	sum := sha256.Sum256([]byte(k.ID))
	scope := k.Scope
	if strings.ContainsFunc(scope, unicode.IsControl) {
		scope = strconv.Quote(scope) // a line break must not make a second log line
	}
	return scope + "#" + hex.EncodeToString(sum[:6])
}

// GoString keeps the ID out of %#v.
func (k Key) GoString() string { return "pgidem.Key(" + k.String() + ")" }

// LogValue keeps the ID out of structured logs; see [Key.String].
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// lock is the key's advisory lock: 64 bits of SHA-256. Two keys with the same bits wait for each other and nothing
// else, because identity is always the full key. The NUL cannot be part of a scope, so the encoding is unambiguous.
func (k Key) lock() int64 {
	sum := sha256.Sum256([]byte(lockNamespace + k.Scope + "\x00" + k.ID))
	return int64(binary.BigEndian.Uint64(sum[:8])) //nolint:gosec // All 64 bits are wanted; the sign means nothing.
}

// validate refuses a key before any SQL is sent.
func (k Key) validate(validateID func(string) error) error {
	if reason := invalidPart("scope", k.Scope); reason != "" {
		return &Error{Key: k, Kind: ErrInvalidKey, Reason: reason}
	}
	if reason := invalidPart("id", k.ID); reason != "" {
		return &Error{Key: k, Kind: ErrInvalidKey, Reason: reason}
	}
	if validateID == nil {
		return nil
	}
	if err := validateID(k.ID); err != nil {
		return &Error{Key: k, Kind: ErrInvalidKey, Reason: "id is refused by Config.ValidateID", Cause: err}
	}
	return nil
}

func invalidPart(name, value string) string {
	switch {
	case value == "":
		return name + " is empty"
	case len(value) > MaxKeyBytes:
		return fmt.Sprintf("%s is %d bytes long, %d are allowed", name, len(value), MaxKeyBytes)
	case !utf8.ValidString(value):
		return name + " is not valid UTF-8"
	case strings.ContainsRune(value, 0):
		return name + " contains a NUL byte"
	}
	return ""
}
