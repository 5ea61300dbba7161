package pgidem

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/pgidem/internal/dbsqlc"
)

// record makes what a claim reads: recorded steps by their names, an intent with a question mark behind it.
func record(names string) []dbsqlc.OperationStepsRow {
	var rows []dbsqlc.OperationStepsRow
	for n, name := range strings.Fields(names) {
		name, intended := strings.CutSuffix(name, "?")
		rows = append(rows, dbsqlc.OperationStepsRow{Name: name, Ordinal: int32(n + 1), Recorded: !intended})
	}
	return rows
}

// question is a step that a function asks for: "new<old1<old2" for former names, "name=" where it is declared as done.
func question(text string) (name string, former []string, passed bool) {
	text, passed = strings.CutSuffix(text, "=")
	parts := strings.Split(text, "<")
	return parts[0], parts[1:], passed
}

func TestScript(t *testing.T) {
	t.Parallel()
	answers := map[place]string{placeNew: "new", placeSaved: "saved", placeSkipped: "skipped", placeIntended: "intended"}
	for _, c := range []struct {
		record, removed, asks string
		want                  string // the places, or "!" and a part of why not, which ends it
		unasked               string // in the end
	}{
		{"", "", "a b", "new new", ""},
		{"a b", "", "a b c", "saved saved new", ""},
		{"a b", "", "a", "saved", "b"},
		{"a b", "", "", "", "a"},
		{"a b?", "", "a b", "saved intended", ""},
		{"a b?", "", "a", "saved", "b"},
		{"a b undo/b", "", "a b", "saved saved", ""},
		{"a b undo/b", "", "a", "saved", "b"},

		// Another order, another name, a step between.
		{"a b", "", "b", "!the order of the steps has changed", "a"},
		{"a b", "", "c", "!declare a new name", "a"},
		{"a b", "", "a c", "saved !declare a new name", "b"},
		{"a b?", "", "a c", "saved !is not settled", "b"},
		{"a", "", "a c b", "saved new new", ""},

		// Former names.
		{"old b", "", "a<old b", "saved saved", ""},
		{"older b", "", "a<old<older b", "saved saved", ""},
		{"a b", "", "a<old b", "saved saved", ""},
		{"old?", "", "a<old", "intended", ""},
		{"b old", "", "a<old", "!the order of the steps has changed", "b"},
		{"old", "", "a<old old", "saved !under another name", ""},

		// Steps that are gone.
		{"a b c", "b", "a c", "saved saved", ""},
		{"a b c", "a b", "c", "saved", ""},
		{"a b c", "b c", "a d", "saved new", ""},
		{"a b", "b", "a", "saved", ""},
		{"a b?", "b", "a", "saved", "b"},
		{"a b?", "b", "a c", "saved !is not settled", "b"},
		{"a b", "b", "a b", "saved saved", ""}, // it is there after all
		{"a b c", "b", "a c b", "saved saved !declared to be gone", ""},
		{"a b c", "b", "c", "!the order of the steps has changed", "a"},

		// Steps that are new and count as done.
		{"a c", "", "a b= c", "saved skipped saved", ""},
		{"a c?", "", "a b= c", "saved skipped intended", ""},
		{"a", "", "a b= c", "saved new new", ""},
		{"", "", "b=", "new", ""},
		{"b", "", "b=", "saved", ""},
		{"a c", "", "b= a c", "skipped saved saved", ""},
		{"a b", "", "b= a", "!the order of the steps has changed", "a"},
	} {
		t.Run(fmt.Sprintf("%s-%s asks %s", c.record, c.removed, c.asks), func(t *testing.T) {
			t.Parallel()
			s := script{saved: record(c.record)}
			s.begin(strings.Fields(c.removed))
			var got []string
			for _, ask := range strings.Fields(c.asks) {
				at, row, wrong := s.ask(question(ask))
				if wrong != "" {
					got = append(got, "!"+wrong)
					break
				}
				if (row.Name == "") != (at == placeNew || at == placeSkipped) {
					t.Errorf("%s: %s, with the record of %q", ask, answers[at], row.Name)
				}
				got = append(got, answers[at])
			}
			want, why, refused := strings.Cut(c.want, "!")
			all := strings.Join(got, " ")
			if places, wrong, is := strings.Cut(all, "!"); places != want || is != refused || !strings.Contains(wrong, why) {
				t.Errorf("got %s, want %s", all, c.want)
			}
			if unasked := s.unasked(); unasked != c.unasked {
				t.Errorf("%q is left unasked, want %q", unasked, c.unasked)
			}
		})
	}
}

func TestScriptCounts(t *testing.T) {
	t.Parallel()
	s := script{saved: record("a b undo/b c?")}
	s.begin(nil)
	if s.count != 3 {
		t.Errorf("%d are recorded, want 3", s.count)
	}
	for name, want := range map[string]bool{"a": false, "b": true, "c": false, "undo/b": false} {
		if s.undone(name) != want {
			t.Errorf("undone(%q) is %v", name, !want)
		}
	}
}

func TestScriptNames(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", MaxStepNameBytes/2)
	s := new(script)
	for _, name := range []string{"a", "with space", "ünïcode", long, "undo", "do/undo/", "\u0001"} {
		if wrong := s.validate(name); wrong != "" {
			t.Errorf("%q is refused: %s", name, wrong)
		}
		s.ask(name, nil, false)
	}
	for name, why := range map[string]string{
		"": "empty", long + "x": "bytes long", "undo/a": "the library's", "a": "asked for before", long: "asked for before",
		"a\x00b": "NUL", "\xff": "UTF-8",
	} {
		if wrong := s.validate(name); !strings.Contains(wrong, why) {
			t.Errorf("%q: %q, want it to say %q", name, wrong, why)
		}
	}
}
