package pgidem

import "errors"

var (
	errNotUUID = errors.New("not a UUID in its 36-character form")
	errNotULID = errors.New("not a ULID of 26 Crockford base32 characters")
)

// ValidateUUID is a policy for [Config.ValidateID]: it accepts UUIDs of any version in the 36-character form of
// RFC 9562, in either case. IDs are compared as text: the same UUID in another case is another key.
func ValidateUUID(id string) error {
	if len(id) != 36 {
		return errNotUUID
	}
	for i := range len(id) {
		hyphen := i == 8 || i == 13 || i == 18 || i == 23
		if hyphen != (id[i] == '-') || !hyphen && !isHex(id[i]) {
			return errNotUUID
		}
	}
	return nil
}

// ValidateULID is a policy for [Config.ValidateID]: it accepts ULIDs in their canonical text form, 26 characters of
// upper-case Crockford base32 of which the first is at most 7 (128 bits). IDs are compared as text, so lower case,
// which would be another key, is refused.
func ValidateULID(id string) error {
	if len(id) != 26 || id[0] > '7' {
		return errNotULID
	}
	for i := range len(id) {
		if !isCrockford(id[i]) {
			return errNotULID
		}
	}
	return nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func isCrockford(c byte) bool {
	switch c {
	case 'I', 'L', 'O', 'U':
		return false
	}
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z'
}
