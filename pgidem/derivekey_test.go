package pgidem

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
)

// TestDeriveKeyVectors checks the IDs that other implementations rely on. They were computed by another program.
func TestDeriveKeyVectors(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("testdata/derivekey.json")
	if err != nil {
		t.Fatal(err)
	}
	var vectors []struct {
		Name, Scope, Entity, Action string
		Parameters                  map[string]string
		ID                          string
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 15 {
		t.Errorf("%d vectors, want 15 at least", len(vectors))
	}
	for _, v := range vectors {
		want := Key{Scope: v.Scope, ID: v.ID}
		if got := DeriveKey(v.Scope, v.Entity, v.Action, v.Parameters); got != want {
			t.Errorf("%s: got %s, want %s", v.Name, got.ID, want.ID)
		}
		if err := want.validate(nil); err != nil {
			t.Errorf("%s: %v", v.Name, err)
		}
	}
}

func TestDeriveKeyTakesNilAsEmpty(t *testing.T) {
	t.Parallel()
	if DeriveKey("s", "e", "a", nil) != DeriveKey("s", "e", "a", map[string]string{}) {
		t.Error("a nil map and an empty one give different keys")
	}
}

// TestDeriveKeyIgnoresMapOrder fills maps in many orders; Go's own order is another one with each range besides.
func TestDeriveKeyIgnoresMapOrder(t *testing.T) {
	t.Parallel()
	names := make([]string, 20)
	for i := range names {
		names[i] = strconv.Itoa(i)
	}
	fill := func() Key {
		parameters := make(map[string]string)
		for _, name := range names {
			parameters[name] = "value of " + name
		}
		return DeriveKey("s", "e", "a", parameters)
	}
	want := fill()
	for range names {
		names = slices.Concat(names[1:], names[:1])
		if got := fill(); got != want {
			t.Fatalf("with %s first: %s, want %s", names[0], got.ID, want.ID)
		}
	}
}

// TestDeriveKeyIsUnambiguous moves bytes across every boundary of the encoding.
func TestDeriveKeyIsUnambiguous(t *testing.T) {
	t.Parallel()
	type parameters = map[string]string
	inputs := []struct {
		entity, action string
		parameters     parameters
	}{
		{"", "", nil},
		{"", "", parameters{"": ""}},
		{"ab", "c", nil},
		{"a", "bc", nil},
		{"abc", "", nil},
		{"", "abc", nil},
		{"a", "b", parameters{"c": ""}},
		{"a", "b", parameters{"": "c"}},
		{"a", "b", parameters{"cd": "e"}},
		{"a", "b", parameters{"c": "de"}},
		{"a", "b", parameters{"c": "d", "e": "f"}},
		{"a", "b", parameters{"c": "f", "e": "d"}},
		{"a", "b", parameters{"c": "d1:e1:f"}},
		{"a", "b", parameters{"c": "d,1:e,1:f"}},
		{"a,1:b", "1", nil},
		{"a", "b,1:0,", nil},
		{"a", "b", nil},
		{"b", "a", nil},
		{"A", "b", nil},
		{"a", "b", parameters{"c": "é"}},
		{"a", "b", parameters{"c": "e\u0301"}},
		{"a", "b", parameters{"c": "\xe9"}},
		{"a", "b", parameters{"c": "\uFFFD"}},
		{"a", "b", parameters{"c": "1"}},
		{"a", "b", parameters{"c": "1.0"}},
		{"a", "b", parameters{"c": " 1"}},
	}
	seen := make(map[string]string)
	for _, in := range inputs {
		text := fmt.Sprintf("%+q %+q %+q", in.entity, in.action, in.parameters)
		id := DeriveKey("s", in.entity, in.action, in.parameters).ID
		if other, taken := seen[id]; taken {
			t.Errorf("%s and %s give the same ID", text, other)
		}
		seen[id] = text
	}
}
