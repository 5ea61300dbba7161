package main

import (
	"slices"
	"strings"
	"testing"
)

const (
	subtestFails = `{"Action":"run","Test":"TestA"}
{"Action":"output","Test":"TestA/Once","Output":"    a_test.go:9: 2 rows, want 1\n"}
{"Action":"fail","Test":"TestA/Once"}
{"Action":"fail","Test":"TestA"}
{"Action":"fail"}`
	testPasses = `{"Action":"pass","Test":"TestA"}
{"Action":"pass"}`
	buildFails = `{"ImportPath":"p","Action":"build-output","Output":"a.go:1: undefined: x\n"}
{"ImportPath":"p","Action":"build-fail"}
{"Action":"fail","FailedBuild":"p"}`
	timesOut = `{"Action":"output","Test":"TestA","Output":"panic: test timed out after 3m0s\n"}
{"Action":"fail","Test":"TestA"}
{"Action":"fail"}`
	isSkipped = `{"Action":"skip","Test":"TestA"}
{"Action":"pass"}`
	nothingRuns = `{"Action":"pass"}`
)

func TestOutcomeCaught(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		events  string
		by      []string
		problem string
	}{
		"InnermostTest": {events: subtestFails, by: []string{"TestA/Once"}},
		"Survivor":      {events: testPasses},
		"BrokenBuild":   {events: buildFails, problem: "does not compile"},
		"Timeout":       {events: timesOut, problem: "timeout"},
		"Skip":          {events: isSkipped, problem: "was skipped"},
		"NoTest":        {events: nothingRuns, problem: "no test ran"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			read, err := readOutcome([]byte(c.events))
			if err != nil {
				t.Fatal(err)
			}
			by, err := read.caught()
			if !slices.Equal(by, c.by) {
				t.Errorf("caught by %q, want %q", by, c.by)
			}
			if got := message(err); !strings.Contains(got, c.problem) || (c.problem == "") != (got == "") {
				t.Errorf("error %q, want one with %q", got, c.problem)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestParseHeader(t *testing.T) {
	t.Parallel()
	parsed, err := parseHeader("# test: TestA|TestB ./pgidem\n# breaks: G1, at most one execution\n--- a/x.go\n# test: no more\n")
	if err != nil {
		t.Fatal(err)
	}
	want := bug{check: check{regexp: "TestA|TestB", pattern: "./pgidem"}, breaks: "G1, at most one execution"}
	if parsed != want {
		t.Errorf("parsed %+v, want %+v", parsed, want)
	}
	for _, text := range []string{"--- a/x.go\n", "# test: TestA\n# breaks: G1\n", "# test: TestA ./pgidem\n"} {
		if parsed, err := parseHeader(text); err == nil {
			t.Errorf("parseHeader(%q) = %+v, want an error", text, parsed)
		}
	}
}

func TestOutcomeOfACheck(t *testing.T) {
	t.Parallel()
	all := outcome{passed: []string{"TestA", "TestA/Once", "TestB"}, failed: []string{"TestC", "TestC/Twice"}, skipped: []string{"TestD"}}
	for regexp, want := range map[string]string{
		"TestA/Once": "", "TestA|TestB": "", "TestC$": "fails already", "TestA|TestC/Once": "fails already", "TestD": "was skipped", "TestE": "no test ran",
	} {
		got := message(all.of(check{regexp: regexp}).requirePass())
		if !strings.Contains(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: error %q, want one with %q", regexp, got, want)
		}
	}
}
