package pgidemcrypt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/pgidem/pgidem/pgidem"
)

var (
	testKey   = pgidem.Key{Scope: "acct_42/charges", ID: "order-1"}
	testPlain = []byte(`{"charge":7}`)
)

// newSealer returns a keyring that has one key for the scope of testKey, and the sealer with it.
func newSealer(t testing.TB) (*Sealer, *Keyring) {
	t.Helper()
	keys := new(Keyring)
	keys.Rotate(testKey.Scope)
	s, err := New(keys)
	if err != nil {
		t.Fatal(err)
	}
	return s, keys
}

func mustSeal(t testing.TB, s *Sealer, key pgidem.Key, plain []byte) []byte {
	t.Helper()
	sealed, err := s.Seal(t.Context(), key, pgidem.PartResult, plain)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

func wantOpen(t testing.TB, s *Sealer, key pgidem.Key, sealed, want []byte) {
	t.Helper()
	if got, err := s.Open(t.Context(), key, pgidem.PartResult, sealed); err != nil || !bytes.Equal(got, want) {
		t.Errorf("opened %q, %v; want %q", got, err, want)
	}
}

func wantClosed(t testing.TB, s *Sealer, key pgidem.Key, sealed []byte, want error) {
	t.Helper()
	if got, err := s.Open(t.Context(), key, pgidem.PartResult, sealed); !errors.Is(err, want) || got != nil {
		t.Errorf("opened %q, %v; want nothing and %v", got, err, want)
	}
}

// TestOpensWhatWasSavedBefore pins the format, which later releases have to read. The bytes were made by another program,
// from what the package's documentation says.
func TestOpensWhatWasSavedBefore(t *testing.T) {
	t.Parallel()
	const saved = "" +
		"ff70676964656d0107323032362d31316465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f8081828300010203" +
		"0405060708090a0b1133622eb1abf039307c7262b16306bbf57e0893158655cd4fba2433ad7595e4d13a907a227fdbe449d7473b" +
		"3fbea6cc32333435363738393a3b3c3d94ef5a0d0db1b47fae58f3235ad7466674acbe44322d56bef4caa5b6"
	sealed, err := hex.DecodeString(saved)
	if err != nil {
		t.Fatal(err)
	}
	secret := make([]byte, SecretBytes)
	for i := range secret {
		secret[i] = byte(i)
	}
	keys := new(Keyring)
	if err := keys.Add(testKey.Scope, ScopeKey{ID: "2026-11", Secret: secret}); err != nil {
		t.Fatal(err)
	}
	s, err := New(keys)
	if err != nil {
		t.Fatal(err)
	}
	wantOpen(t, s, testKey, sealed, testPlain)
	if got := mustSeal(t, s, testKey, testPlain); len(got) != len(sealed) || !bytes.Equal(got[:16], sealed[:16]) {
		t.Errorf("%x is sealed now, want the form of %x", got, sealed)
	}
}

func TestSealAndOpen(t *testing.T) {
	t.Parallel()
	s, _ := newSealer(t)
	for _, plain := range [][]byte{{}, {0}, testPlain, []byte(magic), bytes.Repeat([]byte("x"), 1<<20)} {
		sealed := mustSeal(t, s, testKey, plain)
		wantOpen(t, s, testKey, sealed, plain)
		wantOpen(t, s, testKey, mustSeal(t, s, testKey, sealed), sealed)
		if again := mustSeal(t, s, testKey, plain); bytes.Equal(again[7+2+26:], sealed[7+2+26:]) {
			t.Error("sealing twice gave the same bytes")
		}
		if len(plain) > 1 && bytes.Contains(sealed[len(magic):], plain) {
			t.Errorf("%q can be read in %q", plain, sealed)
		}
	}
	if got, want := len(mustSeal(t, s, testKey, nil)), 129+26; got != want {
		t.Errorf("sealing adds %d bytes, the documentation says %d", got, want)
	}
}

// Each salt, data key and nonce is used once.
func TestEverySealIsFresh(t *testing.T) {
	t.Parallel()
	s, _ := newSealer(t)
	seen := make(map[string]bool)
	for range 1000 {
		e, dataKey, err := s.unwrap(t.Context(), testKey, pgidem.PartResult, mustSeal(t, s, testKey, testPlain))
		if err != nil {
			t.Fatal(err)
		}
		for name, part := range map[string][]byte{"salt": e.salt, "data key": dataKey, "nonce of the data key": e.wrapped[:12], "nonce": e.body[:12]} {
			if part := name + string(part); seen[part] {
				t.Errorf("the %s is used twice", name)
			} else {
				seen[part] = true
			}
		}
	}
}

func TestEveryByteIsAuthenticated(t *testing.T) {
	t.Parallel()
	s, keys := newSealer(t)
	sealed := mustSeal(t, s, testKey, testPlain)
	current, err := keys.Current(t.Context(), testKey.Scope)
	if err != nil {
		t.Fatal(err)
	}
	for i := range sealed {
		changed := slices.Clone(sealed)
		changed[i] ^= 1
		if id := len(magic) + 2; i >= id && i < id+len(current.ID) { // the same secret under the changed ID: a key that was renamed
			renamed := ScopeKey{ID: string(changed[id : id+len(current.ID)]), Secret: current.Secret}
			if err := keys.Add(testKey.Scope, renamed); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := s.Open(t.Context(), testKey, pgidem.PartResult, changed); err == nil {
			t.Errorf("with byte %d of %d changed it opens as %q", i, len(sealed), got)
		}
		wantCutRefused(t, s, sealed[:i])
	}
	wantClosed(t, s, testKey, append(slices.Clone(sealed), 0), ErrForged)
}

func wantCutRefused(t *testing.T, s *Sealer, cut []byte) {
	t.Helper()
	if got, err := s.Open(t.Context(), testKey, pgidem.PartResult, cut); err == nil {
		t.Errorf("cut to %d bytes it opens as %q", len(cut), got)
	}
	if got, err := s.Reseal(t.Context(), testKey, pgidem.PartResult, cut); err == nil {
		t.Errorf("cut to %d bytes it is resealed as %q", len(cut), got)
	}
}

// An answer belongs to one key, and its parts to each other.
func TestAnswersCannotBeMoved(t *testing.T) {
	t.Parallel()
	s, keys := newSealer(t)
	scopes := []string{"a", "ab", "abc", "acct_43/charges"}
	for _, scope := range scopes { // the same secret everywhere: only what is authenticated keeps them apart
		if err := keys.Add(scope, ScopeKey{ID: "k", Secret: bytes.Repeat([]byte{7}, SecretBytes)}); err != nil {
			t.Fatal(err)
		}
	}
	var answers []pgidem.Key
	for _, parts := range [][2]string{{"a", "bc"}, {"ab", "c"}, {"abc", "x"}, {"a", "b"}, {"acct_43/charges", "order-1"}, {"acct_43/charges", "order-2"}} {
		answers = append(answers, pgidem.Key{Scope: parts[0], ID: parts[1]})
	}
	for _, from := range answers {
		sealed := mustSeal(t, s, from, testPlain)
		for _, to := range answers {
			if from == to {
				wantOpen(t, s, to, sealed, testPlain)
			} else {
				wantClosed(t, s, to, sealed, ErrForged)
			}
		}
	}

	one, err := parse(mustSeal(t, s, answers[0], testPlain))
	if err != nil {
		t.Fatal(err)
	}
	other, err := parse(mustSeal(t, s, answers[0], testPlain))
	if err != nil {
		t.Fatal(err)
	}
	one.body = other.body
	wantClosed(t, s, answers[0], one.bytes(), ErrForged)
}

// Nor does it open as another part of the same key, however the ID ends and the part begins.
func TestAnswersBelongToTheirPart(t *testing.T) {
	t.Parallel()
	s, keys := newSealer(t)
	type place struct {
		key  pgidem.Key
		part pgidem.Part
	}
	places := []place{
		{testKey, pgidem.PartResult},
		{testKey, pgidem.PartFailure},
		{testKey, "step/charge"},
		{testKey, "step/"},
		{pgidem.Key{Scope: testKey.Scope, ID: testKey.ID + "step/"}, "charge"},
	}
	for _, from := range places {
		sealed, err := s.Seal(t.Context(), from.key, from.part, testPlain)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range places {
			if got, err := s.Open(t.Context(), to.key, to.part, sealed); (from == to) != (err == nil) || from != to && !errors.Is(err, ErrForged) {
				t.Errorf("sealed as %v, opened as %v: got %q, %v", from, to, got, err)
			}
		}
	}

	one, err := parse(mustSeal(t, s, testKey, testPlain))
	if err != nil {
		t.Fatal(err)
	}
	secret, err := keys.Secret(t.Context(), testKey.Scope, one.keyID)
	if err != nil {
		t.Fatal(err)
	}
	dataKey, err := one.unwrap(testKey, pgidem.PartResult, secret)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := one.unwrap(testKey, pgidem.PartFailure, secret); !errors.Is(err, ErrForged) {
		t.Errorf("the data key of a result unwraps as a failure's: %v", err)
	}
	if _, err := one.decrypt(testKey, pgidem.PartFailure, dataKey); !errors.Is(err, ErrForged) {
		t.Errorf("the bytes of a result decrypt as a failure's: %v", err)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	s, _ := newSealer(t)
	sealed := string(mustSeal(t, s, testKey, testPlain))
	for text, want := range map[string]error{
		"":                              ErrNotSealed,
		"\xff":                          ErrNotSealed,
		`{"charge":7}`:                  ErrNotSealed,
		magic:                           ErrForged,
		magic + "\x00":                  ErrNotSealed,
		magic + "\x02" + sealed[8:]:     ErrNotSealed,
		magic + "\x01":                  ErrForged,
		magic + "\x01\x00" + sealed[9:]: ErrForged,
		magic + "\x01\xff" + sealed[9:]: ErrForged,
		sealed[:len(sealed)-1]:          ErrForged,
		sealed[:9] + "!" + sealed[10:]:  ErrNoKey,
	} {
		wantClosed(t, s, testKey, []byte(text), want)
	}
}

// FuzzOpen: nothing that was not sealed opens, and nothing panics.
func FuzzOpen(f *testing.F) {
	s, _ := newSealer(f)
	sealed := mustSeal(f, s, testKey, testPlain)
	for _, cut := range []int{0, 1, 7, 8, 9, 35, 67, 127, len(sealed)} {
		f.Add(sealed[:cut])
	}
	f.Add([]byte(`{"charge":7}`))
	f.Add([]byte(magic + "\x01\xff"))
	accepting := &Sealer{keys: s.keys, opts: Opts{AcceptPlain: true}}
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := s.Open(t.Context(), testKey, pgidem.PartResult, text)
		if err == nil && !bytes.Equal(text, sealed) {
			t.Errorf("%x opens as %q", text, got)
		}
		isPlain := !bytes.HasPrefix(text, []byte(magic))
		if isPlain && !errors.Is(err, ErrNotSealed) {
			t.Errorf("%x: got %v, want %v", text, err, ErrNotSealed)
		}
		if got, err := accepting.Open(t.Context(), testKey, pgidem.PartResult, text); isPlain && (err != nil || !bytes.Equal(got, text)) {
			t.Errorf("%x is plain and opens as %q, %v", text, got, err)
		}
		if resealed, err := s.Reseal(t.Context(), testKey, pgidem.PartResult, text); err == nil && (resealed != nil || !bytes.Equal(text, sealed)) {
			t.Errorf("%x was resealed as %x", text, resealed)
		}
		wantOpen(t, s, testKey, mustSeal(t, s, testKey, text), text)
	})
}
