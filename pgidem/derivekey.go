package pgidem

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"slices"
	"strconv"
)

// DeriveKey makes the key of an operation that has no ID of its own from what the operation is: the same entity,
// action and parameters give the same key in every process and in every language. Use it where nobody sends an
// Idempotency-Key, for example for "send the invoice reminder of March": entity "invoice/7", action "remind",
// parameters {"month": "2026-03"}.
//
// The ID is "d1-" and the lower-case hex SHA-256 of a sequence of netstrings (the length in bytes as a decimal number,
// ":", the bytes, ","): first "pgidem.derive.v1", then the entity, the action, the number of parameters in decimal, and
// for each parameter, sorted by the bytes of its name, the name and the value. Lengths make the encoding unambiguous,
// sorting makes it independent of map order. Values are texts: write numbers and times the same way everywhere.
// testdata/derivekey.json holds vectors for other implementations. A nil map is an empty one.
func DeriveKey(scope, entity, action string, parameters map[string]string) Key {
	var text []byte
	text = appendNetstring(text, "pgidem.derive.v1")
	text = appendNetstring(text, entity)
	text = appendNetstring(text, action)
	text = appendNetstring(text, strconv.Itoa(len(parameters)))
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		text = appendNetstring(text, name)
		text = appendNetstring(text, parameters[name])
	}
	sum := sha256.Sum256(text)
	return Key{Scope: scope, ID: "d1-" + hex.EncodeToString(sum[:])}
}

func appendNetstring(to []byte, text string) []byte {
	to = strconv.AppendInt(to, int64(len(text)), 10)
	to = append(to, ':')
	to = append(to, text...)
	return append(to, ',')
}
