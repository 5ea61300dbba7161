package main

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

func parse(t *testing.T, line string) options {
	t.Helper()
	o, err := parseOptions(strings.Fields(line), io.Discard)
	if err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return o
}

func TestRoundsAndBudget(t *testing.T) {
	t.Parallel()
	// Three slices a round: bare, dotx, bare.
	const one = "-slice 200ms -variants dotx -concurrency 1 "
	for _, test := range []struct {
		line   string
		rounds int
		slice  time.Duration
	}{
		{one, 10, 200 * time.Millisecond},
		{one + "-rounds 3", 3, 200 * time.Millisecond},
		{"-variants dotx -concurrency 1", 10, defaultSlice},
		{one + "-time 6s", 10, 200 * time.Millisecond},
		{one + "-time 60s", 100, 200 * time.Millisecond},
		{one + "-time 60s -rounds 7", 7, 200 * time.Millisecond},
		{one + "-time 1.9s -rounds 7", 3, 200 * time.Millisecond},
		{one + "-time 300ms", 1, 100 * time.Millisecond},
		{one + "-time 1ms", 1, shortestSlice},
		{"-slice 200ms -variants dotx -concurrency 1,2 -time 2.4s", 2, 200 * time.Millisecond},
	} {
		o := parse(t, test.line)
		if o.rounds != test.rounds || o.slice != test.slice {
			t.Errorf("%q plans %d rounds of %v, not %d of %v", test.line, o.rounds, o.slice, test.rounds, test.slice)
		}
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	o := parse(t, "")
	if !slices.Equal(o.callers, []int{1, 8, 32}) || o.json || o.plot != "" || o.network != 0 {
		t.Errorf("the defaults are %+v", o)
	}
}

func TestWrongOptions(t *testing.T) {
	t.Parallel()
	for _, line := range []string{
		"-rounds -1", "-time -1s", "-network -1us", "-slice 9ms", "-concurrency 0", "-concurrency 1,x", "-concurrency 2,2",
		"-concurrency 501", "-variants nothing", "5", "-unknown",
	} {
		if _, err := parseOptions(strings.Fields(line), io.Discard); err == nil {
			t.Errorf("%q was accepted", line)
		}
	}
}

func TestHelpNamesEveryVariant(t *testing.T) {
	t.Parallel()
	var help bytes.Buffer
	if _, err := parseOptions([]string{"-help"}, &help); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-help returned %v", err)
	}
	for _, v := range variants() {
		if !strings.Contains(help.String(), v.question) {
			t.Errorf("the help does not say what %s is for", v.name)
		}
	}
}
