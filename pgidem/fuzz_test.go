package pgidem

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// FuzzKey compares validate with a naive reading of the documentation of Key, and looks for the ID in what is logged.
func FuzzKey(f *testing.F) {
	for _, text := range []string{"", "a", "acct_42/charges", "größe", "a\x00b", "\xff", "\xed\xa0\x80", "\xc0\x80", "\uFFFD", "#", "\n"} {
		f.Add(text, "id")
		f.Add("scope", text)
		f.Add(text, text)
	}
	for _, length := range []int{254, 255, 256} {
		f.Add(strings.Repeat("s", length), "id")
		f.Add("scope", strings.Repeat("é", 127)+strings.Repeat("i", length-254))
	}
	good := func(text string) bool {
		runes := []rune(text)
		return text != "" && len(text) < 256 && string(runes) == text && !slices.Contains(runes, 0)
	}
	f.Fuzz(func(t *testing.T, scope, id string) {
		key := Key{scope, id}
		err := key.validate(nil)
		if want := good(scope) && good(id); (err == nil) != want {
			t.Fatalf("%+q, %+q: error %v, want the key accepted: %v", scope, id, err, want)
		}
		if err != nil && !errors.Is(err, ErrInvalidKey) {
			t.Fatalf("error %v, want ErrInvalidKey", err)
		}

		sum := sha256.Sum256([]byte(id))
		if strings.ContainsFunc(scope, unicode.IsControl) {
			scope = strconv.Quote(scope)
		}
		want := scope + "#" + hex.EncodeToString(sum[:])[:12]
		if key.String() != want || key.LogValue().String() != want {
			t.Errorf("the key is logged as %q and %q, want %q", key.String(), key.LogValue().String(), want)
		}
		if other := (Key{key.Scope, id + "x"}); key.String() == other.String() || key.lock() == other.lock() {
			t.Errorf("%+q and %+q share a hash", key.ID, other.ID)
		}
	})
}

// FuzzDeriveKey encodes its inputs in a naive way that it can also decode. What can be decoded is unambiguous, so two
// different inputs never have the same encoding.
func FuzzDeriveKey(f *testing.F) {
	f.Add("invoice/7", "remind", "month", "2026-03", "", "")
	f.Add("", "", "", "", "", "")
	f.Add("a", "bc", "1:x,", "0:,", "b", "a")
	f.Add("ab", "c", "é", "\xff", "e\u0301", "\x00")
	f.Fuzz(func(t *testing.T, entity, action, name1, value1, name2, value2 string) {
		parameters := map[string]string{name1: value1, name2: value2}
		parts := []string{"pgidem.derive.v1", entity, action, strconv.Itoa(len(parameters))}
		for _, name := range slices.Sorted(maps.Keys(parameters)) {
			parts = append(parts, name, parameters[name])
		}
		var text strings.Builder
		for _, part := range parts {
			fmt.Fprintf(&text, "%d:%s,", len(part), part)
		}
		sum := sha256.Sum256([]byte(text.String()))
		if got, want := DeriveKey("s", entity, action, parameters), (Key{"s", fmt.Sprintf("d1-%x", sum)}); got != want {
			t.Errorf("got %s, want the hash of %+q", got.ID, text.String())
		}
		if got := decodeNetstrings(t, text.String()); !slices.Equal(got, parts) {
			t.Errorf("%+q is read as %+q, want %+q", text.String(), got, parts)
		}
	})
}

func decodeNetstrings(t *testing.T, text string) (parts []string) {
	t.Helper()
	for text != "" {
		digits, rest, _ := strings.Cut(text, ":")
		length, err := strconv.Atoi(digits)
		if err != nil || length >= len(rest) || rest[length] != ',' {
			t.Fatalf("%+q is no sequence of netstrings", text)
		}
		parts, text = append(parts, rest[:length]), rest[length+1:]
	}
	return parts
}

// FuzzFailure: what a failure is after it was sanitized, it is after it was saved and read.
func FuzzFailure(f *testing.F) {
	f.Add("card_declined", "insufficient funds", "bank", "b1")
	f.Add("", "", "", "")
	f.Add("\xff", "a\x00b", "<&>\u2028", "gr\xf6\xdfe")
	f.Add("\uFFFD", "\xed\xa0\x80", "\\u0000", `"`)
	f.Fuzz(func(t *testing.T, code, message, name, value string) {
		original := &Failure{Code: code, Message: message, Details: map[string]string{name: value}}
		saved := failureOf(Permanent(original))
		wantRoundTrip(t, saved)
		if again := failureOf(Permanent(withoutCause(saved))); !reflect.DeepEqual(withoutCause(again), withoutCause(saved)) {
			t.Errorf("sanitizing again changed %+q to %+q", saved, again)
		}
		// Joined, because two texts that are each cut inside a character might be valid together.
		valid := utf8.ValidString(strings.Join([]string{code, message, name, value}, ","))
		if valid && !reflect.DeepEqual(withoutCause(saved), original) {
			t.Errorf("%+q is valid but became %+q", original, saved)
		}
	})
}

// fuzzResult has one field of each kind that encoding/json treats in its own way.
type fuzzResult struct {
	Text    string
	Bytes   []byte
	Integer int64
	Float   float64
	Map     map[string]string
	Pointer *string
	Any     any
}

// FuzzResult: the value that the first caller gets is the one that every replay gets, and saving it loses nothing more.
// Whatever cannot be saved is ErrResult.
func FuzzResult(f *testing.F) {
	f.Add("text", []byte("bytes"), int64(1), 1.5, 1000)
	f.Add("", []byte(nil), int64(math.MinInt64), math.Copysign(0, -1), 0)
	f.Add("\xff\x00<>&\u2028", []byte{0, 255}, int64(1<<53+1), math.MaxFloat64, 1000)
	f.Add("text", []byte{}, int64(0), math.NaN(), 1000)
	f.Fuzz(func(t *testing.T, text string, raw []byte, integer int64, float float64, limit int) {
		value := fuzzResult{text, raw, integer, float, map[string]string{text: text}, &text, []any{text, float}}
		key := Key{"s", "i"}
		c := &Client{config: Config{Codec: JSON{}, Sealer: plain{}, MaxResultBytes: limit}}
		first, err := encodeResult(t.Context(), c, key, value)
		if err != nil {
			if !errors.Is(err, ErrResult) {
				t.Fatalf("error %v, want ErrResult", err)
			}
			return
		}
		if len(first.saved) > limit {
			t.Errorf("%d bytes were accepted, %d are allowed", len(first.saved), limit)
		}
		c.config.MaxResultBytes = len(first.saved)
		_, fits := encodeResult(t.Context(), c, key, value)
		c.config.MaxResultBytes--
		_, tooLarge := encodeResult(t.Context(), c, key, value)
		if fits != nil || !errors.Is(tooLarge, ErrResult) {
			t.Errorf("with just enough allowed: %v, with one byte less: %v; want only the latter refused", fits, tooLarge)
		}
		c.config.MaxResultBytes = limit
		replay, err := decodeResult[fuzzResult](t.Context(), c, key, first.saved)
		if err != nil || !reflect.DeepEqual(first.value, replay) {
			t.Fatalf("first %+v, replay %+v, error %v", first.value, replay, err)
		}
		if replay.Integer != integer || !bytes.Equal(replay.Bytes, raw) || replay.Float != float {
			t.Errorf("%+v became %+v", value, replay)
		}
		again, err := encodeResult(t.Context(), c, key, replay)
		if err != nil {
			t.Fatalf("what was read cannot be saved again: %v", err)
		}
		if !reflect.DeepEqual(again.value, replay) {
			t.Errorf("%+v became %+v when it was saved again", replay, again.value)
		}
	})
}
