package main

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// report is what a run has found.
type report struct {
	OK       bool           `json:"ok"`
	Error    string         `json:"error,omitempty"`
	Postgres string         `json:"postgres"`
	Payments paymentsReport `json:"payments"`
	Rides    ridesReport    `json:"rides"`
	// Elapsed includes starting and stopping PostgreSQL.
	Elapsed milliseconds `json:"elapsed_ms"`
}

// paymentsReport is that of the first part.
type paymentsReport struct {
	Steps []stepReport `json:"steps"`
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
}

type stepReport struct {
	Title    string       `json:"title"`
	Outcome  []string     `json:"outcome"`
	Requests int          `json:"requests"`
	Elapsed  milliseconds `json:"elapsed_ms"`
}

// ridesReport is that of the second part.
type ridesReport struct {
	Runs []rideRun `json:"runs"`
	// Resumed runs went on after the step at which they were interrupted.
	Resumed        int `json:"resumed"`
	ChargesMissing int `json:"charges_missing"`
	ChargesDoubled int `json:"charges_doubled"`
	LedgerMissing  int `json:"ledger_missing"`
	LedgerDoubled  int `json:"ledger_doubled"`
	// TakeoverMaxMS is the longest time from kill -9 to the claim of the server that went on.
	TakeoverMaxMS milliseconds `json:"takeover_max_ms"`
	// Charges are the provider's; what follows is in the database.
	Charges     int `json:"charges"`
	Rides       int `json:"rides"`
	LedgerRows  int `json:"ledger_rows"`
	StagedJobs  int `json:"staged_jobs"`
	Succeeded   int `json:"succeeded"`
	IllegalRows int `json:"illegal_rows"`
}

// String is what scripts look for.
func (r ridesReport) String() string {
	return fmt.Sprintf("runs=%d resumed=%d charges_missing=%d charges_doubled=%d ledger_missing=%d ledger_doubled=%d takeover_max_ms=%.1f",
		len(r.Runs), r.Resumed, r.ChargesMissing, r.ChargesDoubled, r.LedgerMissing, r.LedgerDoubled, float64(r.TakeoverMaxMS))
}

type rideRun struct {
	Number       int    `json:"run"`
	Interruption string `json:"interruption"`
	Requests     int    `json:"requests"`
	Attempts     int    `json:"attempts"`
	ResumedAfter string `json:"resumed_after"`
	// ClaimMS is the time from the signal to A to the claim of B, where there was a signal.
	ClaimMS    *milliseconds `json:"claim_ms,omitempty"`
	Charges    int           `json:"charges"`
	LedgerRows int           `json:"ledger_rows"`

	customer        string
	killed, resumed bool
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
	payments(r paymentsReport)
	fleet()
	ran(r rideRun)
	rides(r ridesReport)
	end(r report)
}

// document is for programs: one JSON object at the end.
type document struct{ to io.Writer }

func (document) begin()                  {}
func (document) world(report)            {}
func (document) step(int, string)        {}
func (document) outcome(stepReport)      {}
func (document) payments(paymentsReport) {}
func (document) fleet()                  {}
func (document) ran(rideRun)             {}
func (document) rides(ridesReport)       {}

func (d document) end(r report) {
	encoder := json.NewEncoder(d.to)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(r)
}
