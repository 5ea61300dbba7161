package pgidem

import (
	"strings"
	"testing"
)

func TestValidateUUID(t *testing.T) {
	t.Parallel()
	const good = "0198c2f4-7d1e-7a3b-9c5d-0123456789ab"
	for _, c := range []struct {
		name, id string
		ok       bool
	}{
		{"LowerCase", good, true},
		{"UpperCase", strings.ToUpper(good), true},
		{"MixedCase", "0198C2f4-7d1E-7a3b-9c5d-0123456789aB", true},
		{"Nil", "00000000-0000-0000-0000-000000000000", true},
		{"Max", "ffffffff-ffff-ffff-ffff-ffffffffffff", true},
		{"Version4", "f47ac10b-58cc-4372-a567-0e02b2c3d479", true},
		{"NewID", NewID(), true},
		{"Empty", "", false},
		{"OneShort", good[:35], false},
		{"OneLong", good + "0", false},
		{"WithoutHyphens", strings.ReplaceAll(good, "-", ""), false},
		{"HyphensOnly", strings.Repeat("-", 36), false},
		{"DigitsOnly", strings.Repeat("0", 36), false},
		{"HyphenMoved", "0198c2f-47d1e-7a3b-9c5d-0123456789ab", false},
		{"Braces", "{" + good[:34] + "}", false},
		{"URN", "urn:uuid:" + good, false},
		{"SpaceBehind", good[:35] + " ", false},
		{"BelowDigits", "/" + good[1:], false},
		{"AboveDigits", ":" + good[1:], false},
		{"BelowLetters", "@" + good[1:], false},
		{"AboveLetters", "G" + good[1:], false},
		{"BelowSmallLetters", "`" + good[1:], false},
		{"AboveSmallLetters", "g" + good[1:], false},
		{"WideDigit", "０" + good[3:], false},
	} {
		wantValid(t, "UUID", c.name, ValidateUUID(c.id), c.ok)
	}
	for at := range len(good) {
		wrong := byte('-')
		if good[at] == '-' {
			wrong = '0'
		}
		wantValid(t, "UUID", "WrongByte", ValidateUUID(good[:at]+string(wrong)+good[at+1:]), false)
	}
}

func TestValidateULID(t *testing.T) {
	t.Parallel()
	const good = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
	for _, c := range []struct {
		name, id string
		ok       bool
	}{
		{"Canonical", good, true},
		{"Zero", strings.Repeat("0", 26), true},
		{"Largest", "7" + strings.Repeat("Z", 25), true},
		{"MoreThan128Bits", "8" + strings.Repeat("Z", 25), false},
		{"LetterInFront", "A" + good[1:], false},
		{"LowerCase", strings.ToLower(good), false},
		{"Empty", "", false},
		{"OneShort", good[:25], false},
		{"OneLong", good + "0", false},
		{"UUID", NewID(), false},
		{"SpaceInFront", " " + good[1:], false},
		{"NUL", good[:25] + "\x00", false},
		{"TwoByteCharacter", good[:24] + "é", false},
	} {
		wantValid(t, "ULID", c.name, ValidateULID(c.id), c.ok)
	}
	const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	for b := range 256 {
		id := good[:25] + string([]byte{byte(b)})
		wantValid(t, "ULID", id, ValidateULID(id), strings.IndexByte(crockford, byte(b)) >= 0)
	}
}

func wantValid(t *testing.T, form, name string, err error, ok bool) {
	t.Helper()
	if (err == nil) != ok {
		t.Errorf("%+q as %s: error %v, want it accepted: %v", name, form, err, ok)
	}
}
