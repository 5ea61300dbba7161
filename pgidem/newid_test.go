package pgidem

import (
	"encoding/hex"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestNewIDIsAUUIDOfVersion7(t *testing.T) {
	t.Parallel()
	for range 1000 {
		before := time.Now().UnixMilli()
		id := NewID()
		after := time.Now().UnixMilli()
		if err := ValidateUUID(id); err != nil || id != strings.ToLower(id) {
			t.Fatalf("%s: %v, want a lower-case UUID", id, err)
		}
		if id[14] != '7' || !strings.Contains("89ab", id[19:20]) {
			t.Fatalf("%s has version %c and variant digit %c, want 7 and one of 8, 9, a, b", id, id[14], id[19])
		}
		if at := milliseconds(t, id); at < before || at > after {
			t.Fatalf("%s says that it was made at %d, want between %d and %d", id, at, before, after)
		}
	}
}

// TestNewIDIsOrderedByTime makes IDs until they span several milliseconds: between those, text order is time order.
func TestNewIDIsOrderedByTime(t *testing.T) {
	t.Parallel()
	last := NewID()
	for crossed := 0; crossed < 3; {
		next := NewID()
		switch was, is := milliseconds(t, last), milliseconds(t, next); {
		case was < is && last >= next:
			t.Fatalf("%s was made after %s but does not sort behind it", next, last)
		case was < is:
			crossed++
		}
		last = next
	}
}

func milliseconds(t *testing.T, id string) int64 {
	t.Helper()
	at, err := strconv.ParseInt(id[:8]+id[9:13], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func TestNewIDIsUnique(t *testing.T) {
	t.Parallel()
	wantUnique(t, NewID)
}

func TestNewTokenIsUnique(t *testing.T) {
	t.Parallel()
	wantUnique(t, newToken)
}

func wantUnique(t *testing.T, draw func() string) {
	t.Helper()
	const goroutines, draws = 8, 5000
	var drawn [goroutines][draws]string
	var all sync.WaitGroup
	for g := range goroutines {
		all.Go(func() {
			for i := range draws {
				drawn[g][i] = draw()
			}
		})
	}
	all.Wait()
	seen := make(map[string]bool)
	for _, ids := range drawn {
		for _, id := range ids {
			if seen[id] || ValidateUUID(id) != nil {
				t.Fatalf("%s was drawn twice or is not a UUID", id)
			}
			seen[id] = true
		}
	}
}

// TestRandomBits would notice bits that are never drawn: each that is not fixed has both values within 256 draws, but
// for once in 2^248 runs.
func TestRandomBits(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		draw   func() string
		random string // mask of the bits that are random
	}{
		{"NewID", NewID, "000000000000" + "0fff" + "3fffffffffffffff"},
		{"newToken", newToken, strings.Repeat("f", 32)},
	} {
		mask, err := hex.DecodeString(c.random)
		if err != nil {
			t.Fatal(err)
		}
		var ones, zeros [16]byte
		for range 256 {
			id, err := hex.DecodeString(strings.ReplaceAll(c.draw(), "-", ""))
			if err != nil {
				t.Fatal(err)
			}
			for i, b := range id {
				ones[i] |= b
				zeros[i] |= ^b
			}
		}
		for i := range mask {
			if (ones[i]&zeros[i])&mask[i] != mask[i] {
				t.Errorf("%s: byte %d has bits that never change: %08b of %08b do", c.name, i, ones[i]&zeros[i], mask[i])
			}
		}
	}
}

func TestFormatUUID(t *testing.T) {
	t.Parallel()
	id := [16]byte{0x01, 0x98, 0xc2, 0xf4, 0x7d, 0x1e, 0x7a, 0x3b, 0x9c, 0x5d, 0x01, 0x23, 0x45, 0x67, 0x89, 0xab}
	if got, want := formatUUID(id), "0198c2f4-7d1e-7a3b-9c5d-0123456789ab"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
