package main

import (
	"fmt"
	"io"
)

// story is for people.
type story struct{ to io.Writer }

// width is that of a line up to its elapsed time.
const width = 96

func newStory(to io.Writer) story { return story{to} }

func (s story) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.to, format, args...) }

func (s story) begin() {
	s.printf("Starting PostgreSQL and five servers (the first time, downloads and builds take a while) ...\n")
}

func (s story) world(r report) {
	s.printf("%s\n\nONE TRANSACTION: two servers of examples/quickstart, A and B, on one database\n", r.Postgres)
	s.printf("Payments from an account that holds %s.\n\n", money(openingCents))
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

func (s story) payments(r paymentsReport) {
	s.printf("\n%d requests, %d crash. In the database: %d charges, balance %s, %d keys (%d succeeded, %d failed).\n",
		r.Requests, r.Crashes, r.Charges, money(r.BalanceCents), r.Operations, r.Succeeded, r.Failed)
}

// row is a line of the table of rides.
const row = "%3v  %-34s %9v  %-13s %14v %8v %7v\n"

func (s story) fleet() {
	s.printf("\nSEVERAL STEPS: two servers of examples/rides, A and B, on one database, and a payment provider\n" +
		"A ride is created, charged at the provider and booked in the ledger. Each client asks A, which is\n" +
		"stopped in the middle, and goes on asking B.\n\n")
	s.printf(row, "run", "what happens to A", "attempts", "resumed after", "kill to claim", "charges", "ledger")
}

func (s story) ran(r rideRun) {
	claim := "-"
	if r.ClaimMS != nil {
		claim = r.ClaimMS.String()
	}
	s.printf(row, r.Number, r.Interruption, r.Attempts, r.ResumedAfter, claim, r.Charges, r.LedgerRows)
}

func (s story) rides(r ridesReport) {
	s.printf("\nAfter SIGTERM A had %v for what was under way. Started again, A gave each client B's answer.\n",
		milliseconds(grace.Milliseconds()))
	s.printf("At the provider: %d charges. In the database: %d rides, %d lines in the ledger, %d staged jobs.\n",
		r.Charges, r.Rides, r.LedgerRows, r.StagedJobs)
}

func (s story) end(r report) {
	if !r.OK {
		s.printf("\ndemo: FAILED: %s\n", r.Error)
		return
	}
	s.printf("No row is illegal, all is stopped. It took %v.\n", r.Elapsed)
	s.printf("demo: ok %v\n", r.Rides)
}

func money(cents int64) string { return fmt.Sprintf("%d.%02d", cents/100, cents%100) }
