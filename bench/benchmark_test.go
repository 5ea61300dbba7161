package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/internal/devpg"
)

// TestSmoke runs every variant and holds the counted costs, which do not depend on the machine, against the budget.
func TestSmoke(t *testing.T) {
	t.Parallel()
	o := parse(t, "-rounds 1 -slice 10ms -concurrency 1,3")
	r, err := benchmark(t.Context(), o, devpg.New(t).URL(), "PostgreSQL of a test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	budget := map[string]struct{ roundTrips, commits float64 }{
		"bare":          {3, 1},
		"handwritten":   {6, 1},
		"dotx":          {3, 1},
		"dotx_last":     {2, 1},
		"dobatch":       {1, 1},
		"bare_select":   {1, 0},
		"replay":        {2, 0},
		"replay_known":  {1, 0},
		"replay_cached": {0, 0},
	}
	for _, v := range r.Variants {
		want, ok := budget[v.Name]
		if !ok {
			t.Errorf("%s has no budget in this test: how many round trips and commits may it take?", v.Name)
		} else if v.PerOp.RoundTrips != want.roundTrips || v.PerOp.Commits != want.commits {
			t.Errorf("%s takes %v round trips and %v commits, not %v and %v",
				v.Name, v.PerOp.RoundTrips, v.PerOp.Commits, want.roundTrips, want.commits)
		}
		// Only a lower bound: the server counts for all databases, and other tests write to theirs.
		if v.PerOp.Commits > 0 && v.PerOp.WALBytes < 100 {
			t.Errorf("%s commits, but writes only %v bytes of WAL", v.Name, v.PerOp.WALBytes)
		}
		if v.PerOp.Allocs == 0 {
			t.Errorf("%s is said not to allocate anything", v.Name)
		}
		for _, m := range v.Measured {
			if m.Ratio.Count == 0 || m.Ratio.Median <= 0 || m.PerSecond <= 0 || m.P50Micros <= 0 || m.P99Micros < m.P50Micros {
				t.Errorf("%s, %s: not measured, or not possible: %+v", v.Name, callersName(m.Callers), m)
			}
		}
		if len(v.Measured) != len(o.callers) {
			t.Errorf("%s has %d results for %d numbers of callers", v.Name, len(v.Measured), len(o.callers))
		}
	}
	if len(r.Variants) != len(variants()) {
		t.Errorf("%d of %d variants are in the report", len(r.Variants), len(variants()))
	}
	if r.Interrupted {
		t.Error("the report says that it was interrupted")
	}
}

// TestInterrupt sends the signal, as the context knows it, when the second round begins. It runs through the slow
// network, whose connections have to be gone afterwards too.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := parse(t, "-rounds 1000 -slice 10ms -concurrency 2 -variants dotx -network 100us")
	r, err := benchmark(ctx, o, devpg.New(t).URL(), "PostgreSQL of a test", onText{"round 2 ", cancel})
	if !errors.Is(err, errInterrupted) {
		t.Fatalf("the run ended with %v", err)
	}
	if !r.Interrupted {
		t.Error("the report does not say that it was interrupted")
	}
	if got := r.Variants[1].Measured[0].Ratio.Count; got != 1 {
		t.Errorf("the report has %d rounds, not the one that was complete", got)
	}
}

func TestInterruptBeforeAnythingWasMeasured(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := benchmark(ctx, parse(t, ""), devpg.New(t).URL(), "PostgreSQL of a test", io.Discard)
	if r != nil || !errors.Is(err, errInterrupted) {
		t.Errorf("the run ended with %v and report %v", err, r)
	}
}

// onText calls a function when a text is written.
type onText struct {
	text string
	then func()
}

func (o onText) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(o.text)) {
		o.then()
	}
	return len(p), nil
}

func TestServerThatLosesCommitsIsRefused(t *testing.T) {
	t.Parallel()
	url := devpg.New(t).URL() + "&options=-c%20synchronous_commit%3Doff"
	if !strings.Contains(url, "?") {
		url = strings.Replace(url, "&", "?", 1)
	}
	r, err := benchmark(t.Context(), parse(t, ""), url, "PostgreSQL of a test", io.Discard)
	if r != nil || !errors.Is(err, errUnsafe) {
		t.Errorf("the run ended with %v and report %v", err, r)
	}
}

func TestTooManyCallersAreRefused(t *testing.T) {
	t.Parallel()
	r, err := benchmark(t.Context(), parse(t, "-concurrency 500"), devpg.New(t).URL(), "PostgreSQL of a test", io.Discard)
	if r != nil || !errors.Is(err, errTooManyCallers) {
		t.Errorf("the run ended with %v and report %v", err, r)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	r := sampleReport()
	var text, json strings.Builder
	if err := write(r, options{}, &text); err != nil || text.String() != r.markdown() {
		t.Errorf("without options, %v and this were written:\n%s", err, text.String())
	}
	if err := write(r, options{json: true}, &json); err != nil || !strings.HasPrefix(json.String(), "{\n") {
		t.Errorf("with -json, %v and this were written:\n%s", err, json.String())
	}
	nowhere := filepath.Join(t.TempDir(), "no", "plot.svg")
	if err := write(r, options{plot: nowhere}, io.Discard); err == nil {
		t.Error("a plot in a folder that does not exist was written")
	}
}
