package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/pgidem/pgidem/internal/devpg"
)

func TestMain(m *testing.M) { devpg.Main(m) }

// telling hands a run's events to both printers, and calls at when a step begins.
type telling struct {
	story
	document
	at func(step int)
}

func (t telling) begin()               { t.story.begin() }
func (t telling) world(r report)       { t.story.world(r) }
func (t telling) outcome(s stepReport) { t.story.outcome(s) }

func (t telling) step(number int, title string) {
	t.story.step(number, title)
	t.at(number)
}

func (t telling) end(r report) {
	t.story.end(r)
	t.document.end(r)
}

func TestDemo(t *testing.T) {
	t.Parallel()
	var text, object bytes.Buffer
	to := telling{newStory(&text), document{&object}, func(int) {}}
	if err := tell(t.Context(), new(world), to); err != nil {
		t.Fatalf("%v\n%s", err, &text)
	}
	t.Logf("\n%s", &text)

	last := text.String()[strings.LastIndex(strings.TrimSpace(text.String()), "\n")+1:]
	if !strings.HasPrefix(last, "demo: ok, 29 requests, 1 crash, 4 operations, 3 charges (") {
		t.Errorf("the last line is %q", last)
	}
	for line := range strings.Lines(text.String()) {
		if n := len(strings.TrimSuffix(line, "\n")); n > width+4 {
			t.Errorf("a line is %d characters long: %s", n, line)
		}
	}
	var r report
	if err := json.Unmarshal(object.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, &object)
	}
	if !r.OK || r.Error != "" || r.Requests != 29 || r.Crashes != 1 || r.Operations != 4 || r.Charges != 3 ||
		r.BalanceCents != 945_00 || len(r.Steps) != len(steps) || r.TakeoverMS <= 0 || !strings.Contains(r.Postgres, "PostgreSQL") {
		t.Errorf("the JSON report is\n%s", &object)
	}
}

func TestReadmeTellsTheSameStory(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range steps {
		if line := fmt.Sprintf("\n%d  %s\n", i+1, s.title); !strings.Contains(string(text), line) {
			t.Errorf("the demo's output in the README has no line %q: paste a new run", strings.TrimSpace(line))
		}
	}
}

func TestDurationsAreReadable(t *testing.T) {
	t.Parallel()
	for ms, want := range map[milliseconds]string{
		0.04: "0.0 ms", 5.26: "5.3 ms", 9.96: "10 ms", 28.4: "28 ms", 999.4: "999 ms", 999.6: "1.0 s", 3259: "3.3 s", 62_000: "62.0 s",
	} {
		if got := ms.String(); got != want {
			t.Errorf("%v ms: %q, want %q", float64(ms), got, want)
		}
	}
}

func TestAnInterruptWhileTheServersStopIsNoFailure(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w := new(world)
	if err := w.open(ctx); err != nil {
		t.Fatal(errors.Join(err, w.close()))
	}
	if !w.spare() { // where close begins
		t.Error("the servers were killed before")
	}
	cancel()
	if err := w.close(); err != nil {
		t.Error(err)
	}
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupt := errors.New("interrupted by the test")
	var text, object bytes.Buffer
	w := new(world)
	to := telling{newStory(&text), document{&object}, func(step int) {
		if step == 3 {
			cancel(interrupt)
		}
	}}

	err := tell(ctx, w, to)

	if !errors.Is(err, interrupt) {
		t.Errorf("the error is %v, not the cause of the interruption", err)
	}
	if !strings.Contains(text.String(), "demo: FAILED: interrupted by the test") || !strings.Contains(object.String(), `"ok": false`) {
		t.Errorf("the interruption is not told:\n%s\n%s", &text, &object)
	}
	if _, err := os.Stat(w.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary folder %s is left: %v", w.dir, err)
	}
	for _, s := range []*server{w.a, w.b} {
		if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://")); err == nil {
			_ = conn.Close()
			t.Errorf("server %s still listens", s.name)
		}
	}
}
