package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgidem/pgidem/internal/devpg"
)

func TestMain(m *testing.M) {
	if os.Getenv(envDemo) != "" {
		main()
		return
	}
	devpg.Main(m)
}

// envDemo makes this executable the demo.
const envDemo = "PGIDEM_TEST_DEMO"

// telling hands a run's events to both printers, and calls the test's functions when a step begins and a ride is over.
type telling struct {
	story
	document document
	atStep   func(number int)
	atRide   func(number int)
}

func (t telling) step(number int, title string) {
	t.story.step(number, title)
	if t.atStep != nil {
		t.atStep(number)
	}
}

func (t telling) ran(r rideRun) {
	t.story.ran(r)
	if t.atRide != nil {
		t.atRide(r.Number)
	}
}

func (t telling) end(r report) {
	t.story.end(r)
	t.document.end(r)
}

func lastLine(text *bytes.Buffer) string {
	whole := strings.TrimSpace(text.String())
	return whole[strings.LastIndex(whole, "\n")+1:]
}

func TestDemo(t *testing.T) {
	t.Parallel()
	var text, object bytes.Buffer
	to := telling{story: newStory(&text), document: document{&object}}
	if err := tell(t.Context(), new(world), to); err != nil {
		t.Fatalf("%v\n%s", err, &text)
	}
	t.Logf("\n%s", &text)

	const want = "demo: ok runs=20 resumed=20 charges_missing=0 charges_doubled=0 ledger_missing=0 ledger_doubled=0 takeover_max_ms="
	if last := lastLine(&text); !strings.HasPrefix(last, want) {
		t.Errorf("the last line is %q", last)
	}
	for line := range strings.Lines(strings.TrimSuffix(text.String(), lastLine(&text)+"\n")) {
		if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > width+4 {
			t.Errorf("a line is %d characters long: %s", n, line)
		}
	}
	var r report
	if err := json.Unmarshal(object.Bytes(), &r); err != nil {
		t.Fatalf("%v\n%s", err, &object)
	}
	p, rides := r.Payments, r.Rides
	if !r.OK || r.Error != "" || !strings.Contains(r.Postgres, "PostgreSQL") ||
		p.Requests != 29 || p.Crashes != 1 || p.Operations != 4 || p.Charges != 3 || p.BalanceCents != 945_00 ||
		len(p.Steps) != len(steps) || p.TakeoverMS <= 0 ||
		len(rides.Runs) != 20 || rides.Resumed != 20 || rides.Charges != 20 || rides.StagedJobs != 20 || rides.TakeoverMaxMS <= 0 {
		t.Errorf("the JSON report is\n%s", &object)
	}
	for _, run := range rides.Runs {
		if run.Attempts != 2 || run.Charges != 1 || run.LedgerRows != 1 || run.Requests < 2 {
			t.Errorf("in the JSON report, run %d is %+v", run.Number, run)
		}
	}
}

// demoProcess is a demo of its own, in another process.
func demoProcess(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	demo := exec.CommandContext(t.Context(), self)
	demo.Env = append(append(os.Environ(), envDemo+"=1"), env...)
	return demo
}

// What the demo says is worth something if it can say the contrary.
func TestDemoFailsWhenTheProviderChargesTwice(t *testing.T) {
	t.Parallel()
	demo := demoProcess(t, "IGNORE_KEYS=1")
	var text bytes.Buffer
	demo.Stdout = &text
	err := demo.Run()
	if exit := new(exec.ExitError); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("the demo ended with %v, not with exit code 1", err)
	}
	// Where the charge is recorded, the provider is not asked again, whatever it thinks of keys.
	const want = "demo: FAILED: runs=20 resumed=20 charges_missing=0 charges_doubled=10 ledger_missing=0 ledger_doubled=0 "
	if last := lastLine(&text); !strings.HasPrefix(last, want) {
		t.Errorf("the last line is not %s…\n%s", want, &text)
	}
}

func TestDemoFailsWhenALineIsMissingInTheLedger(t *testing.T) {
	t.Parallel()
	var text, object bytes.Buffer
	w := new(world)
	err := tell(t.Context(), w, telling{story: newStory(&text), document: document{&object}, atRide: func(number int) {
		if number != 7 {
			return
		}
		conn, err := pgx.Connect(t.Context(), w.fleet.url)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(context.Background())
		if _, err := conn.Exec(t.Context(), "DELETE FROM ledger WHERE id = (SELECT max(id) FROM ledger)"); err != nil {
			t.Error(err)
		}
	}})
	const want = "demo: FAILED: runs=20 resumed=20 charges_missing=0 charges_doubled=0 ledger_missing=1 ledger_doubled=0 "
	if last := lastLine(&text); err == nil || !strings.HasPrefix(last, want) {
		t.Errorf("%v: the last line is not %s…\n%s", err, want, &text)
	}
	if !strings.Contains(object.String(), `"ok": false`) || !strings.Contains(object.String(), `"ledger_missing": 1`) {
		t.Errorf("the JSON report is\n%s", &object)
	}
}

func TestVerdictWantsEveryCountRight(t *testing.T) {
	t.Parallel()
	right := ridesReport{Runs: make([]rideRun, 2), Resumed: 2, Rides: 2, LedgerRows: 2, StagedJobs: 2, Succeeded: 2}
	if err := right.verdict(); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*ridesReport){
		"NotResumed":     func(r *ridesReport) { r.Resumed-- },
		"ChargeMissing":  func(r *ridesReport) { r.ChargesMissing++ },
		"ChargeDoubled":  func(r *ridesReport) { r.ChargesDoubled++ },
		"LedgerMissing":  func(r *ridesReport) { r.LedgerMissing++ },
		"LedgerDoubled":  func(r *ridesReport) { r.LedgerDoubled++ },
		"RideTooMany":    func(r *ridesReport) { r.Rides++ },
		"LineTooMany":    func(r *ridesReport) { r.LedgerRows++ },
		"JobMissing":     func(r *ridesReport) { r.StagedJobs-- },
		"KeyNotFinished": func(r *ridesReport) { r.Succeeded-- },
		"IllegalRow":     func(r *ridesReport) { r.IllegalRows++ },
	} {
		spoiled := right
		if spoil(&spoiled); spoiled.verdict() == nil {
			t.Errorf("%s: nothing is wrong", name)
		}
	}
}

func TestReadmeTellsTheSameStory(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var parts []string
	for i, s := range steps {
		parts = append(parts, fmt.Sprintf("%d  %s\n", i+1, s.title))
	}
	number := 0
	for _, i := range interruptions {
		for range i.runs {
			number++
			parts = append(parts, fmt.Sprintf("%3d  %s ", number, i.title))
		}
	}
	for _, part := range append(parts, fmt.Sprintf("demo: ok runs=%d resumed=%d ", number, number)) {
		if !strings.Contains(string(text), "\n"+part) {
			t.Fatalf("the demo's output in the README has no line %q: paste a new run", part)
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
	interrupt := errors.New("interrupted by the test")
	for name, when := range map[string]struct{ step, ride int }{"InAPayment": {step: 3}, "BetweenRides": {ride: 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			at := func(when int) func(int) {
				return func(number int) {
					if number == when {
						cancel(interrupt)
					}
				}
			}
			var text, object bytes.Buffer
			w := new(world)

			err := tell(ctx, w, telling{newStory(&text), document{&object}, at(when.step), at(when.ride)})

			if !errors.Is(err, interrupt) {
				t.Errorf("the error is %v, not the cause of the interruption", err)
			}
			if lastLine(&text) != "demo: FAILED: interrupted by the test" || !strings.Contains(object.String(), `"ok": false`) {
				t.Errorf("the interruption is not told:\n%s\n%s", &text, &object)
			}
			if _, err := os.Stat(w.dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the temporary folder %s is left: %v", w.dir, err)
			}
			if n := len(w.servers()); n != 5 {
				t.Errorf("%d servers were started, not 5", n)
			}
			for _, s := range w.servers() {
				if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://")); err == nil {
					_ = conn.Close()
					t.Errorf("server %s still listens", s.name)
				}
			}
		})
	}
}
