package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// report is what a run has found.
type report struct {
	OK       bool         `json:"ok"`
	Error    string       `json:"error,omitempty"`
	Postgres string       `json:"postgres"`
	Steps    []stepReport `json:"steps"`
	// Requests were sent by the demo; those that got no answer count too.
	Requests int `json:"requests"`
	Crashes  int `json:"crashes"`
	// TakeoverMS is the time from kill -9 to the first answer that another server gave for the same key.
	TakeoverMS milliseconds `json:"takeover_ms"`
	// Operations are the keys that are saved in the database, as Succeeded and Failed.
	Operations   int   `json:"operations"`
	Succeeded    int   `json:"succeeded"`
	Failed       int   `json:"failed"`
	Charges      int   `json:"charges"`
	BalanceCents int64 `json:"balance_cents"`
	// Elapsed includes starting and stopping PostgreSQL.
	Elapsed milliseconds `json:"elapsed_ms"`
}

type stepReport struct {
	Title    string       `json:"title"`
	Outcome  []string     `json:"outcome"`
	Requests int          `json:"requests"`
	Elapsed  milliseconds `json:"elapsed_ms"`
}

// milliseconds are what people and programs read alike; microseconds are kept as decimals.
type milliseconds float64

func since(t time.Time) milliseconds { return milliseconds(time.Since(t).Microseconds()) / 1000 }

func (ms milliseconds) String() string {
	switch {
	case ms < 9.95:
		return fmt.Sprintf("%.1f ms", float64(ms))
	case ms < 999.5:
		return fmt.Sprintf("%.0f ms", float64(ms))
	default:
		return fmt.Sprintf("%.1f s", float64(ms)/1000)
	}
}

// printer tells a run while it goes on.
type printer interface {
	begin()
	world(r report)
	step(number int, title string)
	outcome(s stepReport)
	end(r report)
}

// story is for people.
type story struct{ to io.Writer }

// width is that of a line up to its elapsed time.
const width = 96

func newStory(to io.Writer) story { return story{to} }

func (s story) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.to, format, args...) }

func (s story) begin() {
	s.printf("Starting PostgreSQL and two servers (the first time, downloads and builds take a while) ...\n")
}

func (s story) world(r report) {
	s.printf("%s\nTwo servers of examples/quickstart, A and B, on one database. The account holds %s.\n\n", r.Postgres, money(openingCents))
}

func (s story) step(number int, title string) { s.printf("%d  %s\n", number, title) }

func (s story) outcome(step stepReport) {
	for i, line := range step.Outcome {
		if i < len(step.Outcome)-1 {
			s.printf("     %s\n", line)
			continue
		}
		s.printf("     %-*s %9v\n", width-15, line, step.Elapsed)
	}
}

func (s story) end(r report) {
	if !r.OK {
		s.printf("\ndemo: FAILED: %s\n", r.Error)
		return
	}
	s.printf("\nIn the database: %d charges, balance %s, %d saved keys (%d succeeded, %d failed), no illegal rows.\n",
		r.Charges, money(r.BalanceCents), r.Operations, r.Succeeded, r.Failed)
	s.printf("demo: ok, %d requests, %d crash, %d operations, %d charges (%v in all)\n",
		r.Requests, r.Crashes, r.Operations, r.Charges, r.Elapsed)
}

// document is for programs: one JSON object at the end.
type document struct{ to io.Writer }

func (document) begin()             {}
func (document) world(report)       {}
func (document) step(int, string)   {}
func (document) outcome(stepReport) {}

func (d document) end(r report) {
	encoder := json.NewEncoder(d.to)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(r)
}

func money(cents int64) string { return fmt.Sprintf("%d.%02d", cents/100, cents%100) }
