package pgidem

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"testing"
)

// TestFingerprintVectors pins the digests, which are saved and compared by the releases of tomorrow. They were computed
// by another program: SHA-256 over each part's length as eight bytes, highest first, and the part.
func TestFingerprintVectors(t *testing.T) {
	t.Parallel()
	of, err := FingerprintOf(map[string]any{"currency": "EUR", "amount": 100})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		f      Fingerprint
		digest string
	}{
		{
			"NewFingerprint", NewFingerprint([]byte("POST"), []byte("/charges"), []byte(`{"amount":100}`)),
			"0c5a3809724895e445d3a552efc5723ff36ebd199e2f4e58cf10dfd70a7cc275",
		},
		{"FingerprintOf", of, "9c57f72f8e2373463aac9735d512232f81915fb08c4ceac01f39cafb69255076"},
	} {
		if got := hex.EncodeToString(c.f.digest); got != c.digest || c.f.algorithm != 1 {
			t.Errorf("%s: algorithm %d, digest %s, want 1, %s", c.name, c.f.algorithm, got, c.digest)
		}
	}
}

// TestNewFingerprintFramesItsParts compares every list of parts with every other one.
func TestNewFingerprintFramesItsParts(t *testing.T) {
	t.Parallel()
	lists := [][]string{
		{},
		{""},
		{"", ""},
		{"a"},
		{"a", ""},
		{"", "a"},
		{"ab", "c"},
		{"a", "bc"},
		{"abc"},
		{"abc", ""},
		{"a", "b", "c"},
		{"c", "ab"},
		{"\x00\x00\x00\x00\x00\x00\x00\x01a"},
		{"\x00"},
		{"\x00\x00\x00\x00\x00\x00\x00\x00"},
	}
	for i, a := range lists {
		for j, b := range lists {
			if NewFingerprint(byteSlices(a)...).matches(NewFingerprint(byteSlices(b)...)) != (i == j) {
				t.Errorf("%q and %q match: %v, want %v", a, b, i != j, i == j)
			}
		}
	}
}

func byteSlices(texts []string) [][]byte {
	parts := make([][]byte, len(texts))
	for i, text := range texts {
		parts[i] = []byte(text)
	}
	return parts
}

func TestNewFingerprintKeepsNoPart(t *testing.T) {
	t.Parallel()
	part := []byte("body")
	before := NewFingerprint(part)
	part[0] = 'B'
	if !before.matches(NewFingerprint([]byte("body"))) {
		t.Error("changing a part afterwards changed the fingerprint")
	}
}

func TestFingerprintMatches(t *testing.T) {
	t.Parallel()
	var (
		none    Fingerprint
		a       = NewFingerprint([]byte("a"))
		again   = NewFingerprint([]byte("a"))
		b       = NewFingerprint([]byte("b"))
		unknown = Fingerprint{algorithm: 2, digest: a.digest}
		cut     = Fingerprint{algorithm: 1, digest: a.digest[:31]}
		empty   = Fingerprint{algorithm: 1}
	)
	for _, c := range []struct {
		name  string
		x, y  Fingerprint
		match bool
	}{
		{"NoneAndNone", none, none, true},
		{"NoneAndOne", none, a, true},
		{"NoneAndUnknownAlgorithm", none, unknown, true},
		{"Same", a, again, true},
		{"Another", a, b, false},
		{"SameDigestOfUnknownAlgorithm", a, unknown, false},
		{"SameUnknownAlgorithm", unknown, unknown, true},
		{"CutDigest", a, cut, false},
		{"DigestMissing", a, empty, false},
	} {
		if c.x.matches(c.y) != c.match || c.y.matches(c.x) != c.match {
			t.Errorf("%s: matches is %v and %v, want %v", c.name, c.x.matches(c.y), c.y.matches(c.x), c.match)
		}
	}
	if !none.IsZero() || a.IsZero() || NewFingerprint().IsZero() {
		t.Error("IsZero is true of exactly the zero value, want also NewFingerprint() to be a fingerprint")
	}
}

func TestFingerprintOf(t *testing.T) {
	t.Parallel()
	type request struct {
		Amount   int    `json:"amount"`
		Currency string `json:"currency"`
	}
	of := func(input any) Fingerprint {
		t.Helper()
		f, err := FingerprintOf(input)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	want := of(request{100, "EUR"})
	for name, same := range map[string]any{
		"an equal value":         request{100, "EUR"},
		"a pointer to it":        &request{100, "EUR"},
		"a map":                  map[string]any{"amount": 100, "currency": "EUR"},
		"a map filled backwards": map[string]any{"currency": "EUR", "amount": 100},
		"raw JSON with spaces":   json.RawMessage(`{ "amount": 100, "currency": "EUR" }`),
	} {
		if !want.matches(of(same)) {
			t.Errorf("%s has another fingerprint", name)
		}
	}
	for name, other := range map[string]any{
		"another value":           request{101, "EUR"},
		"another number's text":   map[string]any{"amount": "100", "currency": "EUR"},
		"one field more":          map[string]any{"amount": 100, "currency": "EUR", "x": nil},
		"raw JSON, other order":   json.RawMessage(`{"currency":"EUR","amount":100}`),
		"null":                    nil,
		"nothing in it":           request{},
		"the text of the request": `{"amount":100,"currency":"EUR"}`,
	} {
		if want.matches(of(other)) {
			t.Errorf("%s has the same fingerprint", name)
		}
	}
	if of(nil).IsZero() {
		t.Error("the fingerprint of nil is no fingerprint, want that of null")
	}
}

func TestFingerprintOfRefusesWhatHasNoJSON(t *testing.T) {
	t.Parallel()
	for name, input := range map[string]any{"a channel": make(chan int), "NaN": math.NaN(), "a function": func() {}} {
		f, err := FingerprintOf(input)
		if err == nil || !f.IsZero() {
			t.Errorf("%s: fingerprint %v, error %v; want an error", name, f, err)
		}
	}
	_, err := FingerprintOf(math.NaN())
	var cause *json.UnsupportedValueError
	if !errors.As(err, &cause) {
		t.Errorf("error %v, want the cause of encoding/json behind it", err)
	}
}
