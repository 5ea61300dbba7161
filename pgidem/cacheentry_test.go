package pgidem

import (
	"bytes"
	"math"
	"reflect"
	"testing"
	"time"
)

func entries() map[string]entry {
	return map[string]entry{
		"Result":      {state: entrySucceeded, attempt: 1, saved: []byte(`"done"`)},
		"Empty":       {state: entrySucceeded, attempt: 1, saved: []byte{}},
		"Failure":     {state: entryFailed, attempt: math.MaxInt32, saved: []byte(`{"message":"no"}`)},
		"Fingerprint": {state: entrySucceeded, attempt: 2, saved: []byte("1"), fingerprint: NewFingerprint([]byte("request"))},
		"OtherAlgorithm": {
			state: entrySucceeded, attempt: 2, saved: []byte("1"),
			fingerprint: Fingerprint{algorithm: math.MinInt16, digest: bytes.Repeat([]byte{7}, math.MaxUint8)},
		},
	}
}

func TestCacheEntryComesBack(t *testing.T) {
	t.Parallel()
	key := Key{"scope", "id"}
	for name, want := range entries() {
		if got, ok := decodeEntry(key, want.encode(key)); !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v came back as %+v, %v", name, want, got, ok)
		}
	}
}

// A bit that was flipped anywhere, a byte that is missing or one too many: a miss.
func TestDamagedCacheEntryIsAMiss(t *testing.T) {
	t.Parallel()
	key := Key{"scope", "id"}
	for name, e := range entries() {
		whole := e.encode(key)
		for at := range whole {
			for bit := range 8 {
				damaged := bytes.Clone(whole)
				damaged[at] ^= 1 << bit
				if _, ok := decodeEntry(key, damaged); ok {
					t.Errorf("%s: bit %d of byte %d was flipped, and it is still an entry", name, bit, at)
				}
			}
			if _, ok := decodeEntry(key, whole[:at]); ok {
				t.Errorf("%s: the first %d of %d bytes are an entry", name, at, len(whole))
			}
		}
		if _, ok := decodeEntry(key, append(whole, 0)); ok {
			t.Errorf("%s: with a byte more it is still an entry", name)
		}
	}
}

// A cache that joins scope and ID in a way that is not unambiguous must not hand one customer's answer to another.
func TestCacheEntryOfAnotherKeyIsAMiss(t *testing.T) {
	t.Parallel()
	e := entries()["Result"]
	for _, c := range []struct{ put, got Key }{
		{Key{"a/b", "c"}, Key{"a", "b/c"}},
		{Key{"a", "bc"}, Key{"ab", "c"}},
		{Key{"a", "b"}, Key{"a", "B"}},
		{Key{"a", "b"}, Key{"b", "a"}},
	} {
		if _, ok := decodeEntry(c.got, e.encode(c.put)); ok {
			t.Errorf("the entry of %q was taken for one of %q", c.put.Scope+" "+c.put.ID, c.got.Scope+" "+c.got.ID)
		}
	}
}

// What is whole, but not what this release writes, is a miss too.
func TestForeignCacheEntryIsAMiss(t *testing.T) {
	t.Parallel()
	key := Key{"scope", "id"}
	resum := func(b []byte) []byte {
		sum := entrySum(key, b[entryHead:])
		copy(b[1:], sum[:])
		return b
	}
	whole := entries()["Fingerprint"].encode(key)
	if _, ok := decodeEntry(key, resum(bytes.Clone(whole))); !ok {
		t.Fatal("the entry itself is a miss")
	}
	for name, edit := range map[string]func(b []byte){
		"Version":              func(b []byte) { b[0] = 2 },
		"Kind":                 func(b []byte) { b[entryHead] = 'x' },
		"State":                func(b []byte) { b[entryHead+1] = 'r' },
		"NoAttempt":            func(b []byte) { copy(b[entryHead+2:], []byte{0, 0, 0, 0}) },
		"HugeAttempt":          func(b []byte) { b[entryHead+2] = 0x80 },
		"DigestWithoutName":    func(b []byte) { copy(b[entryHead+6:], []byte{0, 0}) },
		"NameWithoutDigest":    func(b []byte) { b[entryHead+8] = 0 },
		"DigestLongerThanRest": func(b []byte) { b[entryHead+8] = 255 },
	} {
		b := bytes.Clone(whole)
		edit(b)
		if _, ok := decodeEntry(key, resum(b)); ok {
			t.Errorf("%s: it was taken for an entry", name)
		}
	}
}

// What cannot be written is not put, instead of being cut.
func TestCacheEntryThatHasNoEncoding(t *testing.T) {
	t.Parallel()
	for name, e := range map[string]entry{
		"LongDigest":  {state: entrySucceeded, attempt: 1, fingerprint: Fingerprint{2, make([]byte, math.MaxUint8+1)}},
		"NoAttempt":   {state: entrySucceeded},
		"HugeAttempt": {state: entrySucceeded, attempt: math.MaxInt32 + 1},
	} {
		if b := e.encode(Key{"s", "i"}); b != nil {
			t.Errorf("%s: it was encoded as %x", name, b)
		}
	}
}

// FuzzCacheEntry: a cache may return anything. What is taken for an entry is one that this release writes, byte for byte.
func FuzzCacheEntry(f *testing.F) {
	key := Key{"scope", "id"}
	f.Add([]byte(nil), false)
	f.Add(make([]byte, entryFixed), true)
	for _, e := range entries() {
		f.Add(e.encode(key), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, repair bool) {
		if repair && len(b) >= entryHead { // so that not every input fails at the digest
			b = bytes.Clone(b)
			sum := entrySum(key, b[entryHead:])
			copy(b[1:], sum[:])
		}
		e, ok := decodeEntry(key, b)
		if ok && !bytes.Equal(e.encode(key), b) {
			t.Errorf("%x was taken for %+v, which is written as %x", b, e, e.encode(key))
		}
	})
}

func TestEntryLife(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ left, elapsed, maxAge, want time.Duration }{
		{1000 * time.Second, 0, 0, 998 * time.Second},
		{1000 * time.Second, 3 * time.Second, 0, 995 * time.Second},
		{1000 * time.Second, 3 * time.Second, time.Minute, 57 * time.Second},
		{1000 * time.Second, 3 * time.Second, time.Hour, 995 * time.Second},
		{time.Second, 0, 0, -time.Millisecond},
		{0, 0, 0, -time.Second},
		{-time.Hour, 0, time.Minute, -time.Hour - time.Second + 3600*time.Millisecond},
	} {
		if got := entryLife(c.left, c.elapsed, c.maxAge); got != c.want {
			t.Errorf("left %v, elapsed %v, at most %v: %v, want %v", c.left, c.elapsed, c.maxAge, got, c.want)
		}
	}
}

// A row may be kept for ever by hand, and times are not limited to what Go's durations can say.
func TestSecondsLeft(t *testing.T) {
	t.Parallel()
	const longest = time.Duration(math.MaxInt64)
	for seconds, want := range map[float64]time.Duration{
		0: 0, 1.5: 1500 * time.Millisecond, -1: 0, math.Inf(1): longest, math.Inf(-1): 0, 1e30: longest, 86400e3: 24000 * time.Hour,
	} {
		row := keyRow{found: true}
		row.SecondsLeft = seconds
		if got := row.left(); got-want > time.Second || want-got > time.Second || want < time.Hour && got != want {
			t.Errorf("%v seconds are %v, want %v", seconds, got, want)
		}
	}
}
